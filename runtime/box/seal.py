"""Sealing: one file beside a hardened model, with what distillation needs, for the holders of a key."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING

import onnx
from pydantic import BaseModel, Field, ValidationError

from kdguard.export.errors import UserError, first_problem
from kdguard.export.files import atomic_path
from kdguard.export.onnx_files import load_onnx, model_files, read_outline, sha256_of_model
from kdguard.graph_passes.inventory import hardened_layers
from kdguard.graph_passes.key_gate import KeyDigest, read_gate
from kdguard.runtime.box.contents import (
    MAGIC,
    MOST_DATA_FILES,
    Augmentation,
    BoxContents,
    Hashes,
    SealedFile,
    is_safe_location,
)
from kdguard.runtime.box.difference import chunk_count, read_range, shared_pieces
from kdguard.runtime.box.encryption import encrypt
from kdguard.runtime.box.gate_keys import read_gate_secret, secret_line
from kdguard.runtime.box.keys import fingerprint
from kdguard.runtime.box.signing import sign, signer_of
from kdguard.runtime.terminal import progress_bar

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey


_LARGEST_SETTINGS = 2**20
"""Bytes."""


class SealReport(BaseModel):
    """What was sealed; nothing in it is secret."""

    box: str = Field(description="file name")
    hardened: str = Field(description="file name")
    hardened_sha256: str
    teacher_sha256: str
    holders: int
    signed_by: str | None = Field(description="SHA-256 of the releaser's raw public key")
    teacher_bytes: int
    sealed_bytes: int = Field(description="of the teacher's, in the box; the others are copied from the hardened model")


def check_hardened(path: Path) -> None:
    """See that a file is a hardened model.

    Raises:
        UserError: it is missing or damaged, or nothing is hardened in it.
    """
    if not hardened_layers(read_outline(path)):
        raise UserError(f"{path}: nothing is hardened in it, and a box goes with a hardened model; harden it first")


def read_augmentation(path: Path) -> Augmentation:
    """Settings of the training recipe from a JSON file.

    Raises:
        UserError: it is missing, far too large, no JSON, or holds something else; no message quotes a secret key.
    """
    try:
        with path.open("rb") as stream:
            content = stream.read(_LARGEST_SETTINGS + 1)
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror}") from error
    if len(content) > _LARGEST_SETTINGS:
        raise UserError(f"{path}: too large for settings of a training recipe; give another file")
    try:
        return Augmentation.model_validate_json(content)
    except ValidationError as error:
        where, what = first_problem(error)
        known = ", ".join(Augmentation.model_fields)
        raise UserError(f"{path}: {f'{where}: ' if where else ''}{what}; it may hold {known}") from error


def read_gate_key(path: Path, hardened: Path) -> bytes:
    """A holder's gate secret as it is sealed: the line of its file.

    Args:
        hardened: the model that the box goes with; one of its gate's digests is this secret's.

    Raises:
        UserError: the file holds no gate secret (another kind of key would be given away for good), the model has no
            gate, or none that the secret opens.
    """
    secret = read_gate_secret(path)
    gate = read_gate(load_onnx(hardened))
    if gate is None:
        raise UserError(f"{path}: {hardened} has no key gate that it could open; gate the model first, or leave it out")
    if KeyDigest.of(secret, gate.seed) not in gate.digests:
        raise UserError(f"{path}: that secret does not open the key gate of {hardened}; give one that does")
    return secret_line(secret).encode()


def seal(
    hardened: Path,
    teacher: Path,
    box: Path,
    holders: Sequence[str],
    *,
    augmentation: Augmentation | None = None,
    gate_key: bytes | None = None,
    signing_key: Ed25519PrivateKey | None = None,
) -> SealReport:
    """Seal a teacher, or what its hardened model lacks of it.

    Weights in data files are read in pieces, so memory does not grow with them.

    Args:
        box: the file to write; takes its place when it is whole.
        holders: public keys, at least one, each once.
        augmentation: of the training recipe; its taps are the teacher's tensors.
        gate_key: of a gate in the hardened model's graph, for the holders.
        signing_key: the releaser's.

    Raises:
        UserError: a model that is missing, damaged or not hardened, another model's teacher, a tap that is not there.
    """
    check_hardened(hardened)
    augmentation = augmentation or Augmentation()
    _check_teacher(teacher, hardened, augmentation)
    files = model_files(teacher)
    pieces = shared_pieces(files, model_files(hardened))
    contents = BoxContents(
        kdguard_version=version("kdguard"),
        hardened_sha256=sha256_of_model(hardened),
        holders=[fingerprint(holder) for holder in holders],
        model=pieces[0],
        data=dict(zip(_locations(files), pieces[1:], strict=True)),
        augmentation=augmentation,
        gate_key=gate_key,
    )
    stream = _BoxStream(files, contents, signing_key)
    total = sum(chunk_count(piece.length) for file in pieces for piece in file.pieces)
    with progress_bar("sealing", total) as advance:
        chunks = stream.chunks(advance)
        with atomic_path(box) as temporary, temporary.open("wb") as output:
            encrypt(chunks, output, holders)
    return SealReport(
        box=box.name,
        hardened=hardened.name,
        hardened_sha256=contents.hardened_sha256,
        teacher_sha256=stream.hashes.teacher_sha256,
        holders=len(holders),
        signed_by=signer_of(signing_key.public_key().public_bytes_raw()) if signing_key else None,
        teacher_bytes=sum(file.size for file in pieces),
        sealed_bytes=sum(file.sealed_size for file in pieces),
    )


def _check_teacher(teacher: Path, hardened: Path, augmentation: Augmentation) -> None:
    """See that a file is the hardened model's teacher, as far as can be told, and has the taps."""
    from kdguard.runtime.manifest import other_teacher

    outline = read_outline(teacher)
    sizes = [[path.stat().st_size for path in model_files(model)] for model in (teacher, hardened)]
    if sizes[0] == sizes[1] and sha256_of_model(teacher) == sha256_of_model(hardened):
        raise UserError(f"{teacher} is the hardened model itself; give the clean teacher that it was made from")
    if other := other_teacher(hardened, teacher):
        raise UserError(f"{other}; give that one")
    unknown = [name for name in augmentation.hint_taps if name not in _tensors(outline)]
    if unknown:
        raise UserError(f"{teacher} has no tensor {unknown[0]!r}, which hint_taps names; `kdguard inspect` lists them")


def _tensors(model: onnx.ModelProto) -> set[str]:
    return {name for node in model.graph.node for name in node.output if name}


def _locations(files: Sequence[Path]) -> list[str]:
    """Where the data files lie, relative to the model file.

    Raises:
        UserError: a name that is not one of a data file everywhere, one file under two names, or too many files.
    """
    names = [path.relative_to(files[0].parent).as_posix() for path in files[1:]]
    if len({name.casefold() for name in names}) < len(names) or not all(map(is_safe_location, names)):
        raise UserError(
            f"{files[0]}: its data files have names that do not work everywhere, or that other files have; re-save it "
            f"with plain ones, as {files[0].name}.data"
        )
    if len(names) > MOST_DATA_FILES:
        raise UserError(f"{files[0]} has {len(names)} data files; re-save it with all weights in one")
    return names


class _BoxStream:
    """The content of a box, made while it is read.

    Attributes:
        hashes: of the teacher's files; complete when `chunks` has ended.
    """

    def __init__(self, files: Sequence[Path], contents: BoxContents, key: Ed25519PrivateKey | None) -> None:
        self._files, self._contents, self._key = files, contents, key
        self.hashes = Hashes(sha256=[])

    def chunks(self, advance: Callable[[], None]) -> Iterator[bytes]:
        """The box from its first byte to its last.

        Args:
            advance: is called for each chunk of the teacher.
        """
        head = MAGIC + self._contents.line()
        yield head
        for path, file in zip(self._files, self._contents.files, strict=True):
            yield from self._file(path, file, advance)
        tail = self.hashes.line()
        yield tail
        yield sign(self._key, head + tail).line() if self._key else b"null\n"

    def _file(self, path: Path, file: SealedFile, advance: Callable[[], None]) -> Iterator[bytes]:
        """The pieces of a file that go into the box, while all of it is hashed."""
        digest, position = hashlib.sha256(), 0
        for piece in file.pieces:
            for chunk in read_range(path, position, piece.length):
                digest.update(chunk)
                advance()
                if piece.source is None:
                    yield chunk
            position += piece.length
        self.hashes.sha256.append(digest.hexdigest())
