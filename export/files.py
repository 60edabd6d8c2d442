"""Files: written whole or not at all, and named by their hash."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from kdguard.export.errors import UserError

TORCH_SUFFIXES = (".pt", ".pth")


def real_path(path: Path) -> Path:
    """A path without links; one whose links lead in a circle as it is, for whoever opens it to say so."""
    return Path(os.path.realpath(path))


def check_writable(target: Path) -> None:
    """Fail now rather than after an hour of work if `target` cannot be written.

    Raises:
        UserError: the folder is missing or refuses new files, or `target` is a folder, a device or a pipe.
    """
    try:
        there = target.exists()
    except OSError as error:  # a name that is too long, a folder that may not be looked into
        raise UserError(f"cannot write {target.name[:60]}...: {error.strerror}; give another file name") from error
    if target.is_dir():
        raise UserError(f"cannot write {target}: it is a folder; give a file name")
    if there and not target.is_file():  # what is written takes its place: /dev/null would be a file from then on
        raise UserError(f"cannot write {target}: it is a device or a pipe, and would be replaced; give a file name")
    if not target.parent.is_dir():
        raise UserError(f"cannot write {target}: the folder {target.parent} does not exist; create it first")
    try:
        handle, probe = tempfile.mkstemp(prefix=".kdguard-", dir=target.parent)
    except OSError as error:
        raise UserError(f"cannot write {target}: {error.strerror}; choose a folder that you may write to") from error
    os.close(handle)
    Path(probe).unlink()


def check_outputs(outputs: Iterable[Path | None], inputs: Iterable[Path | None]) -> None:
    """Fail before work starts if an output cannot be written, or would replace an input or another output.

    Args:
        outputs: files to write; None for those not asked for.
        inputs: files that are read, external data included; None likewise.

    Raises:
        UserError: the first problem found.
    """
    taken = {real_path(path): f"the input {path}" for path in inputs if path is not None}
    for target in (path for path in outputs if path is not None):
        check_writable(target)
        if real_path(target) in taken:
            raise UserError(f"cannot write {target}: that is {taken[real_path(target)]}; give another file name")
        taken[real_path(target)] = "also another output of this command"


def check_onnx_name(target: Path) -> None:
    """Fail before work starts if an ONNX file is to get a torch file's name, which others would try to unpickle.

    Raises:
        UserError: it ends in .pt or .pth.
    """
    if target.suffix.lower() in TORCH_SUFFIXES:
        raise UserError(f"cannot write {target}: that is a name for a torch file; give a name that ends in .onnx")


@contextmanager
def atomic_path(target: Path) -> Iterator[Path]:
    """Yield a temporary path beside `target` that takes its place when the block succeeds.

    Nothing is left behind when the block raises.
    """
    check_writable(target)
    # The name is there to tell leftovers apart, and may be as long as names can be.
    handle, name = tempfile.mkstemp(prefix=f".{target.name[:60]}.", dir=target.parent)
    os.close(handle)
    temporary = Path(name)
    try:
        yield temporary
        # mkstemp makes private files; a shipped model gets the mode any new file would have.
        umask = os.umask(0)
        os.umask(umask)
        temporary.chmod(0o666 & ~umask)
        temporary.replace(target)
    except OSError as error:
        # NumPy tells which value it could not write, not why.
        why = error.strerror or f"{error}; is there room on the disk?"
        raise UserError(f"cannot write {target}: {why}") from error
    finally:
        temporary.unlink(missing_ok=True)


def made_folder(folder: Path, what: str) -> Path:
    """A cache folder, made where it is not there.

    Args:
        what: is kept in it, for the message.

    Raises:
        UserError: it cannot be made.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"cannot keep {what} in {folder}: {error.strerror}; choose another --cache") from error
    return folder


def write_text(target: Path, text: str) -> None:
    """Write a text file atomically, UTF-8."""
    with atomic_path(target) as temporary:
        temporary.write_text(text, encoding="utf-8")


def to_json(content: object) -> str:
    """Indented, strict JSON (no NaN, no infinity) with a final newline."""
    return json.dumps(content, indent=2, allow_nan=False) + "\n"


def write_json(target: Path, content: object) -> None:
    """Write JSON atomically."""
    write_text(target, to_json(content))


def remove(path: Path) -> None:
    """Remove a file, a link (never what it points to) or a folder; nothing where there is nothing."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def sha256_of_file(path: Path) -> str:
    """Hexadecimal SHA-256 of a file's bytes."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
