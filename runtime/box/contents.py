"""What a box holds, and how it is laid out inside the encryption.

    kdguard-box-1                 the format's name and version
    {...}                         `BoxContents`, JSON on one line
    bytes                         the pieces that are not in the hardened model, one after the other
    {...}                         `Hashes`, JSON on one line
    {...} or null                 `Signature` over the three text lines before it, JSON on one line

Hashes come last, so that a file is read once while it is sealed.
"""

from __future__ import annotations

import hashlib
import re
from pathlib import Path
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, NonNegativeInt, PositiveInt, field_validator

MAGIC = b"kdguard-box-1\n"
LONGEST_LINE = 2**24
LARGEST_GATE_KEY = 2**16
MOST_DATA_FILES = 10_000
"""An exporter that gives each weight a file of its own makes hundreds."""
_LONGEST_NAME = 255
_DATA_SUFFIXES = (
    *(".data", ".onnx_data", ".bin", ".weights", ".pb", ".raw"),
    *(".weight", ".bias", ".running_mean", ".running_var", ".in_proj_weight", ".in_proj_bias"),
)
"""Of data files as exporters name them: one for all weights, or one for each, called like the weight."""
_PLAIN = re.compile(r"\w([\w .()+-]*[\w)])?")
_PLAIN_FOLDER = re.compile(r"\w[\w-]*")
_WITHOUT_SUFFIX = re.compile(r"\w[\w-]*_[0-9]+|[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")
"""onnx__Conv_123 of torch, and the UUIDs of onnx; a Makefile has no suffix either."""
_DEVICE = re.compile(r"(con|prn|aux|nul|com[0-9]|lpt[0-9])(\..*)?", re.IGNORECASE)
"""What no file may be called on Windows."""

Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


def is_safe_location(name: str) -> bool:
    """Whether a data file is called as exporters call theirs, in the model's folder or one below it.

    Others are not taken: interpreters, shells and build tools heed files by their names, and a forged box must not
    plant those.
    """
    *folders, file = name.split("/")
    return bool(
        name.isprintable()  # no lone surrogate is, which could not be encoded
        and len(name.encode()) <= _LONGEST_NAME
        and len(folders) <= 1
        and all(_PLAIN_FOLDER.fullmatch(folder) for folder in folders)
        and not any(map(_DEVICE.fullmatch, (*folders, file)))
        and ((_PLAIN.fullmatch(file) and file.lower().endswith(_DATA_SUFFIXES)) or _WITHOUT_SUFFIX.fullmatch(file))
    )


class Part(BaseModel):
    """What all of it has in common: nothing unknown is let through, and bytes are base64 in JSON."""

    model_config = ConfigDict(extra="forbid", ser_json_bytes="base64", val_json_bytes="base64")

    def line(self) -> bytes:
        """As it stands in the box."""
        return self.model_dump_json(exclude_defaults=True).encode() + b"\n"


class Augmentation(Part):
    """Settings of the training recipe that gets more out of the teacher; all of them may be left out.

    They are for the holder's own training code: nothing in kdguard trains by them.
    """

    hint_taps: list[str] = Field(default_factory=list, description="names of the teacher's tensors to learn from")
    views: list[Annotated[int, Field(ge=0, le=7)]] = Field(
        default_factory=list, description="of the eight flips and rotations, those to ask the teacher about"
    )
    hint_weight: float | None = Field(None, ge=0, allow_inf_nan=False, description="of the hint term in the loss")


class Piece(Part):
    """A run of bytes of a sealed file: in the box, or a copy from one of the hardened model's files."""

    length: PositiveInt
    source: NonNegativeInt | None = Field(None, description="index into `model_files` of the hardened model")
    offset: NonNegativeInt = 0


class SealedFile(Part):
    """One file of the teacher."""

    pieces: list[Piece]

    @property
    def size(self) -> int:
        """Bytes."""
        return sum(piece.length for piece in self.pieces)

    @property
    def sealed_size(self) -> int:
        """Bytes of it that are in the box."""
        return sum(piece.length for piece in self.pieces if piece.source is None)


class BoxContents(Part):
    """All that a box says before its data."""

    kdguard_version: str
    hardened_sha256: Sha256
    holders: list[Sha256] = Field(min_length=1, description="fingerprints of the public keys it was sealed to")
    model: SealedFile
    data: dict[str, SealedFile] = Field(
        default_factory=dict, max_length=MOST_DATA_FILES, description="external data, by location"
    )
    augmentation: Augmentation = Field(default_factory=Augmentation)
    gate_key: bytes | None = Field(None, min_length=1, max_length=LARGEST_GATE_KEY, repr=False)

    @field_validator("data")
    @classmethod
    def _safe_locations(cls, data: dict[str, SealedFile]) -> dict[str, SealedFile]:
        if not all(map(is_safe_location, data)) or len({name.casefold() for name in data}) < len(data):
            raise ValueError("a data file has a name that none should have, or that of another")
        return data

    @property
    def files(self) -> list[SealedFile]:
        """The model file, then its data files in the order that they were sealed in, that of `model_files`."""
        return [self.model, *self.data.values()]

    @property
    def names(self) -> list[str | None]:
        """Locations beside `files`; None is the model file."""
        return [None, *self.data]


class Signature(Part):
    """A signature and the public key that checks it, both raw Ed25519."""

    public_key: Annotated[bytes, Field(min_length=32, max_length=32)]
    signature: Annotated[bytes, Field(min_length=64, max_length=64)]


class Hashes(Part):
    """SHA-256 of the teacher's files, in the order of `BoxContents.files`."""

    sha256: list[Sha256]

    @property
    def teacher_sha256(self) -> str:
        """Of the whole teacher, as `sha256_of_model` gives it."""
        if len(self.sha256) == 1:
            return self.sha256[0]
        return hashlib.sha256("".join(self.sha256).encode()).hexdigest()


def default_box(hardened: Path) -> Path:
    """Where the box of a hardened model lies."""
    return hardened.parent / f"{hardened.stem if hardened.suffix == '.onnx' else hardened.name}.box"
