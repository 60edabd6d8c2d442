"""What of a teacher its hardened model holds anyway: the same weights under the same names.

A hardened model shares most weights with its teacher. A box copies those from there when it is opened, so it holds only
the rest. Everything goes by bytes of files, so that the teacher comes back as the files it was.
"""

from __future__ import annotations

import mmap
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import onnx
from onnx.external_data_helper import uses_external_data

from kdguard.export.errors import UserError
from kdguard.runtime.box.contents import Piece, SealedFile

SMALLEST = 4096
"""Bytes; smaller tensors go into the box, where they cost less than saying where they are."""
CHUNK = 2**20

# Field numbers of onnx.proto, and protobuf's wire types.
_GRAPH, _INITIALIZER, _NAME, _RAW_DATA = 7, 5, 8, 9
_VARINT, _EIGHT_BYTES, _LENGTH, _FOUR_BYTES = 0, 1, 2, 5


class Place(NamedTuple):
    """Where bytes lie: which of a model's files, and where in it."""

    file: int
    offset: int
    length: int


def shared_pieces(teacher: Sequence[Path], hardened: Sequence[Path]) -> list[SealedFile]:
    """Per file of the teacher its pieces, those that the hardened model has too as copies from there.

    Args:
        teacher: its files, as `model_files` lists them, all checked.
        hardened: likewise.
    """
    theirs = tensor_places(hardened)
    shared: list[dict[Place, Place]] = [{} for _ in teacher]
    copied: set[Place] = set()  # once each: a box that copies more than there is would be refused as a flood
    for name, place in tensor_places(teacher).items():
        other = theirs.get(name)
        if other is None or other in copied or not place.length == other.length >= SMALLEST:
            continue
        if _same_bytes(teacher, place, hardened, other):
            shared[place.file][place] = other
            copied.add(other)
    return [SealedFile(pieces=_cut(path.stat().st_size, shared[index])) for index, path in enumerate(teacher)]


def _cut(size: int, shared: dict[Place, Place]) -> list[Piece]:
    """A file of `size` bytes in pieces; shared runs that overlap one before them count for nothing."""
    pieces: list[Piece] = []
    position = 0
    for place in sorted(shared):
        if place.offset < position:
            continue
        if place.offset > position:
            pieces.append(Piece(length=place.offset - position))
        pieces.append(Piece(length=place.length, source=shared[place].file, offset=shared[place].offset))
        position = place.offset + place.length
    if position < size:
        pieces.append(Piece(length=size - position))
    return pieces


def tensor_places(files: Sequence[Path]) -> dict[str, Place]:
    """Where the main graph's weights lie, by name; those that are stored otherwise than as raw bytes are left out.

    Args:
        files: of a model that was checked, as `model_files` lists them.
    """
    model_path = files[0]
    places = {name: Place(0, start, end - start) for name, start, end in _raw_data(model_path)}
    order = {path: index for index, path in enumerate(files)}
    for tensor in onnx.load_model(str(model_path), load_external_data=False).graph.initializer:
        if not uses_external_data(tensor):
            continue
        entries = {entry.key: entry.value for entry in tensor.external_data}
        path = model_path.parent / entries["location"]
        offset = int(entries.get("offset", 0))
        places[tensor.name] = Place(order[path], offset, int(entries.get("length", path.stat().st_size - offset)))
    return places


def _raw_data(path: Path) -> Iterator[tuple[str, int, int]]:
    """Name, start and end of each weight inside a model file, which is not read for it."""
    with path.open("rb") as stream, mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) as data:
        for graph in _fields(data, 0, len(data), _GRAPH):
            for tensor in _fields(data, *graph, _INITIALIZER):
                names, raw = (list(_fields(data, *tensor, number)) for number in (_NAME, _RAW_DATA))
                if names and raw:
                    yield data[slice(*names[-1])].decode(errors="replace"), *raw[-1]


def _fields(data: mmap.mmap, start: int, end: int, wanted: int) -> Iterator[tuple[int, int]]:
    """Start and end of a message's fields of one number; protobuf has parsed the message before."""
    while start < end:
        tag, start = _varint(data, start)
        kind = tag & 7
        if kind == _VARINT:
            _, start = _varint(data, start)
        elif kind == _LENGTH:
            length, start = _varint(data, start)
            if tag >> 3 == wanted:
                yield start, start + length
            start += length
        elif kind in (_EIGHT_BYTES, _FOUR_BYTES):
            start += 8 if kind == _EIGHT_BYTES else 4
        else:  # groups, which ONNX has none of: what follows is not looked for
            return


def _varint(data: mmap.mmap, start: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = data[start]
        start += 1
        value |= (byte & 127) << shift
        shift += 7
        if byte < 128:
            return value, start


def _same_bytes(teacher: Sequence[Path], place: Place, hardened: Sequence[Path], other: Place) -> bool:
    ours = read_range(teacher[place.file], place.offset, place.length)
    theirs = read_range(hardened[other.file], other.offset, other.length)
    return all(a == b for a, b in zip(ours, theirs, strict=True))


def chunk_count(length: int) -> int:
    """How many chunks `read_range` gives."""
    return -(-length // CHUNK)


def read_range(path: Path, offset: int, length: int) -> Iterator[bytes]:
    """A run of bytes of a file, in chunks of one size but for the last.

    Raises:
        UserError: the file cannot be read, or has become shorter.
    """
    try:
        with path.open("rb") as stream:
            stream.seek(offset)
            while length:
                chunk = stream.read(min(length, CHUNK))
                if not chunk:
                    raise UserError(f"{path}: the file has become shorter while it was read; run this again")
                length -= len(chunk)
                yield chunk
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror}") from error
