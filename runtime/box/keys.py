"""Holders' keys: age's X25519 identities and recipients, in age's own file formats.

Secret keys are read from files only, and no message of this module quotes what it was given.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from kdguard.export.errors import UserError
from kdguard.runtime.box.key_files import read_key_file, write_pair

if TYPE_CHECKING:
    from pyrage.x25519 import Identity

SECRET_PREFIX = "AGE-SECRET-KEY-"  # noqa: S105, what such a key starts with
PUBLIC_PREFIX = "age1"
HOLDER_OPTION = "--holder"
_SECRET_FILE = "a holder's secret key, as `kdguard keygen` makes it"  # noqa: S105, for messages
_PUBLIC_FILE = "holders' public keys (age1...), one a line"


def fingerprint(public: str) -> str:
    """SHA-256 of a public key as it is written: tells a holder from others without naming him."""
    return hashlib.sha256(public.encode()).hexdigest()


def make_holder_key(path: Path) -> str:
    """Make a holder's key pair; its public key.

    Raises:
        UserError: the files are there already or cannot be written.
    """
    from pyrage import x25519

    identity = x25519.Identity.generate()
    public = str(identity.to_public())
    write_pair(
        path, f"# kdguard holder key: keep this file to yourself\n# public key: {public}\n{identity}\n", f"{public}\n"
    )
    return public


def read_holder_key(path: Path) -> list[Identity]:
    """The secret keys in a holder's file, mostly one.

    Raises:
        UserError: it holds none, or something else.
    """
    from pyrage import IdentityError, x25519

    lines = _lines(read_key_file(path, _SECRET_FILE))
    if not lines:
        raise UserError(f"{path}: there is no key in it; give a file with {_SECRET_FILE}")
    identities = []
    for number, line in lines:
        if line.lower().startswith(PUBLIC_PREFIX):
            raise UserError(f"{path}: that is a public key, which opens nothing; give a file with {_SECRET_FILE}")
        try:
            identities.append(x25519.Identity.from_str(line))
        except IdentityError:
            raise UserError(f"{path}: line {number} is no secret key; give a file with {_SECRET_FILE}") from None
    return identities


def collect_holders(named: Sequence[str], files: Sequence[Path]) -> list[str]:
    """The public keys that a box is sealed to.

    Args:
        named: keys as they were typed.
        files: with one key a line; `#` starts a comment.

    Raises:
        UserError: none at all, one twice, or something that is no public key.
    """
    found = [(public, HOLDER_OPTION) for public in named]
    for file in files:
        lines = _lines(read_key_file(file, _PUBLIC_FILE))
        if not lines:
            raise UserError(f"{file}: there is no key in it; give a file with {_PUBLIC_FILE}")
        found += [(line.partition("#")[0].strip(), f"{file}: line {number}") for number, line in lines]
    if not found:
        raise UserError("a box needs holders; give their public keys with --holder age1... or --holders FILE")
    holders: dict[str, str] = {}
    for text, where in found:
        public = _public_key(text, where)
        if public in holders:
            raise UserError(f"{where}: the holder {public} is named twice (first by {holders[public]}); name each once")
        holders[public] = where
    return list(holders)


def _public_key(text: str, where: str) -> str:
    """A public key as age writes it."""
    from pyrage import RecipientError, x25519

    if text.upper().startswith(SECRET_PREFIX):
        raise UserError(
            f"{where}: that is a secret key, which nobody else may see; make a new pair, and give its public key"
        )
    try:
        return str(x25519.Recipient.from_str(text))
    except RecipientError:
        form = "it looks like age1..., with 62 characters"
        if where == HOLDER_OPTION:
            form += "; a file with keys goes with --holders"
        raise UserError(f"{where}: no public key of a holder; {form}") from None


def _lines(text: str) -> list[tuple[int, str]]:
    """Numbered lines without comments and empty ones."""
    numbered = ((number, line.strip()) for number, line in enumerate(text.splitlines(), 1))
    return [(number, line) for number, line in numbered if line and not line.startswith("#")]
