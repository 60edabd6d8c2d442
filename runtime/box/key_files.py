"""Key files on disk: made once and never replaced, read without a word of them in any message."""

from __future__ import annotations

import os
from pathlib import Path

from kdguard.export.errors import UserError
from kdguard.export.files import check_writable
from kdguard.runtime.terminal import say

SECRET_MODE = 0o600
PUBLIC_MODE = 0o644
_LARGEST = 2**20
_OTHERS = 0o077


def public_path(secret: Path) -> Path:
    """Where the public half of a key lies."""
    return secret.parent / f"{secret.name}.pub"


def check_new(path: Path) -> None:
    """Fail before work starts if a file for a key is there already or cannot be written.

    Raises:
        UserError: so.
    """
    if os.path.lexists(path):
        raise _there_already(path)
    check_writable(path)


def write_pair(path: Path, secret: str, public: str) -> None:
    """Write a key pair: the secret half to `path`, for its owner's eyes alone, the public one beside it.

    Raises:
        UserError: either file is there already or cannot be written; then neither is.
    """
    create(path, secret.encode(), SECRET_MODE)
    try:
        create(public_path(path), public.encode(), PUBLIC_MODE)
    except BaseException:
        path.unlink()
        raise


def create(path: Path, content: bytes, mode: int) -> None:
    """Write a file that is not there yet; O_EXCL follows no link that somebody put in its place.

    Raises:
        UserError: it is there already or cannot be written.
    """
    try:
        handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
    except FileExistsError as error:
        raise _there_already(path) from error
    except OSError as error:
        raise UserError(f"cannot write {path}: {error.strerror}") from error
    try:
        with os.fdopen(handle, "wb") as stream:
            stream.write(content)
    except BaseException as error:
        path.unlink()
        if isinstance(error, OSError):
            raise UserError(f"cannot write {path}: {error.strerror}") from error
        raise


def _there_already(path: Path) -> UserError:
    return UserError(f"{path} is there already, and keys are never replaced; give another name")


def read_key_file(path: Path, what: str) -> str:
    """The text of a key file.

    Args:
        what: it should hold, for messages.

    Raises:
        UserError: it is missing, empty, no text, or far too large for a key.
    """
    try:
        with path.open("rb") as stream:
            content = stream.read(_LARGEST + 1)
    except FileNotFoundError as error:
        raise UserError(f"{path}: no such file; give a file with {what}") from error
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror}; give a file with {what}") from error
    if not content.strip():
        raise UserError(f"{path}: the file is empty; give a file with {what}")
    if len(content) > _LARGEST:
        raise UserError(f"{path}: too large for a key; give a file with {what}")
    try:
        return content.decode("utf-8-sig")  # some editors put a byte order mark first
    except UnicodeDecodeError:  # its message would quote the content
        raise UserError(f"{path}: not a text file; give a file with {what}") from None


def readable_by_others(path: Path) -> bool:
    """Whether a secret key's file, where it is there, lets anybody but its owner in."""
    return os.name == "posix" and path.is_file() and bool(path.stat().st_mode & _OTHERS)


def warn_of_readable(*secrets: Path | None) -> None:
    """Say so where others than its owner may read a secret key's file; None is one that was not given."""
    for path in filter(None, secrets):
        if readable_by_others(path):
            say(f"others on this machine may read the secret key {path}; chmod 600 it", "yellow")
