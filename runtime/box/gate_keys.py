"""Key files of the gate in the graph: a holder's secret, and the digest of it that goes to the releaser.

kdguard-gate-secret-1 HEX     for the holder alone
kdguard-gate-digest-1 HEX     opens nothing; a model stores it
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from kdguard.export.errors import UserError
from kdguard.graph_passes.key_gate.inventory import DEFAULT_RANK
from kdguard.graph_passes.key_gate.keys import GateSecret, KeyDigest, new_gate_secret
from kdguard.runtime.box.key_files import read_key_file, write_pair

SECRET_WORD, DIGEST_WORD = "kdguard-gate-secret-1", "kdguard-gate-digest-1"
_SECRET_FILE = "a gate's secret, as `kdguard keygen --gate` makes it"  # noqa: S105, for messages
_DIGEST_FILE = "a gate's digest, the .pub file of `kdguard keygen --gate`"


def make_gate_key(path: Path) -> KeyDigest:
    """Make a holder's gate secret and, beside it, its digest.

    Raises:
        UserError: the files are there already or cannot be written.
    """
    secret = new_gate_secret()
    digest = KeyDigest.of(secret)
    write_pair(path, secret_line(secret), f"{DIGEST_WORD} {digest.residues.hex()}\n")
    return digest


def secret_line(secret: GateSecret) -> str:
    """What a holder's file holds."""
    return f"{SECRET_WORD} {secret.value.hex()}\n"


def read_gate_secret(path: Path | str) -> GateSecret:
    """The secret in a holder's file, as `open_model` takes it.

    Raises:
        UserError: it holds none, or something else.
    """
    path = Path(path)
    text = read_key_file(path, _SECRET_FILE)
    if text.startswith(DIGEST_WORD):
        raise UserError(f"{path}: that is a digest, which opens nothing; give a file with {_SECRET_FILE}")
    try:
        return GateSecret(_content(text, SECRET_WORD))
    except (UserError, ValueError):  # their messages are not to quote the content
        raise UserError(f"{path}: no gate secret, or a damaged one; give a file with {_SECRET_FILE}") from None


def read_gate_digest(path: Path) -> KeyDigest:
    """The digest in a file.

    Raises:
        UserError: it holds none, or something else.
    """
    text = read_key_file(path, _DIGEST_FILE)
    if text.startswith(SECRET_WORD):
        raise UserError(
            f"{path}: that is a holder's secret, which nobody else may see; make a new pair, and give the .pub file"
        )
    try:
        residues = _content(text, DIGEST_WORD)
    except ValueError:
        raise UserError(f"{path}: no digest of a gate's key, or a damaged one; give {_DIGEST_FILE}") from None
    try:
        return KeyDigest(residues)
    except UserError as error:  # which quotes nothing
        raise UserError(f"{path}: {error}; give {_DIGEST_FILE}") from None


def collect_digests(files: Sequence[Path]) -> list[KeyDigest]:
    """The digests of all holders.

    Raises:
        UserError: none at all, one twice, or a file with something else.
    """
    if not files:
        raise UserError(f"a gate needs holders; give the files with their digests, {_DIGEST_FILE}, with --holder")
    found: dict[KeyDigest, Path] = {}
    for file in files:
        digest = read_gate_digest(file)
        if digest in found:
            raise UserError(f"{file}: the same digest as in {found[digest]}; name each holder once")
        found[digest] = file
    return list(found)


def parse_hints(texts: Sequence[str]) -> dict[str, int]:
    """Layers, and how many components of each, from `GLOB` or `GLOB:RANK`.

    `x:0` is a name, as TensorFlow gives them; of `x:1`, a tensor that is called so is `x:1:4`.

    Raises:
        UserError: one names no layer, or a glob is there twice.
    """
    found: dict[str, int] = {}
    for text in texts:
        glob, rank = _parse_hint(text)
        if not glob:
            raise UserError(f"hint {text!r} names no layer; write GLOB or GLOB:RANK")
        if glob in found:
            raise UserError(f"the hint layer {glob!r} is named twice; name each once, as GLOB or GLOB:RANK")
        found[glob] = rank
    return found


def _parse_hint(text: str) -> tuple[str, int]:
    glob, _, rank = text.rpartition(":")
    return (glob, int(rank)) if re.fullmatch("[1-9][0-9]{0,8}", rank) else (text, DEFAULT_RANK)


def _content(text: str, word: str) -> bytes:
    first, _, rest = text.strip().partition(" ")
    if first != word:
        raise ValueError("another file")
    return bytes.fromhex(rest)
