"""Models whose weights are too large to hold: they stay in their data file, and only their place is known.

In memory, the `location` of such a tensor is an absolute path that `load_onnx` has checked; in a file
it is relative to the model, as ONNX wants it. Everything that needs no weights (passes, shape
inference, the checker) works on the small rest.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import BinaryIO

import onnx
from onnx.external_data_helper import load_external_data_for_tensor, uses_external_data

from kdguard.export.errors import UserError
from kdguard.export.files import atomic_path, check_writable, real_path, sha256_of_file

INLINE_LIMIT = 2**28
"""Bytes of external data that are simply read; hardening holds several copies of a small model."""
SMALL_TENSOR = 2**16
"""Bytes; smaller tensors are read in any case, shape inference may need their values."""

_ALIGNMENT = 4096
"""Runtimes map data files into memory by pages."""
_CHUNK = 2**24


def keep_outside(model: onnx.ModelProto, external: Iterable[onnx.TensorProto], folder: Path) -> None:
    """Point the large weights of a model at their files, in place, and read the other external tensors.

    Args:
        external: its tensors with external data, all checked.
        folder: of the model file.

    Raises:
        UserError: so much data lies outside the main graph's weights that it cannot be read.
    """
    weights = {id(tensor) for tensor in model.graph.initializer}
    inlined = 0
    for tensor in external:
        path, offset, length = _place(tensor, folder)
        if id(tensor) in weights and length > SMALL_TENSOR:
            _set_place(tensor, str(path), offset, length)
            continue
        inlined += length
        if inlined > INLINE_LIMIT:
            raise UserError(
                f"the constants inside the model's nodes and bodies exceed {INLINE_LIMIT >> 20} MB; kdguard keeps "
                "only weights of the main graph in data files: export the model with its weights as initializers"
            )
        load_external_data_for_tensor(tensor, str(folder))
        tensor.data_location = onnx.TensorProto.DEFAULT
        del tensor.external_data[:]


def outside_tensors(model: onnx.ModelProto) -> list[onnx.TensorProto]:
    """The weights of a loaded model that stayed in data files."""
    return [tensor for tensor in model.graph.initializer if uses_external_data(tensor)]


def is_large(model: onnx.ModelProto) -> bool:
    """Whether a loaded model's weights stayed in data files."""
    return bool(outside_tensors(model))


def without_weights(model: onnx.ModelProto) -> onnx.ModelProto:
    """The model, or a copy in which weights in data files are inputs: the same to checker and shape inference."""
    if not is_large(model):
        return model
    light = onnx.ModelProto()
    light.CopyFrom(model)
    outside = {tensor.name: tensor for tensor in outside_tensors(model)}
    kept = [tensor for tensor in light.graph.initializer if tensor.name not in outside]
    del light.graph.initializer[:]
    light.graph.initializer.extend(kept)
    for name in outside.keys() - {value.name for value in model.graph.input}:
        tensor = outside[name]
        light.graph.input.append(onnx.helper.make_tensor_value_info(name, tensor.data_type, tensor.dims))
    return light


def for_runtime(model: onnx.ModelProto) -> tuple[onnx.ModelProto, Path | None]:
    """The model as a runtime takes it, and the folder that its data files are relative to (None: it has none)."""
    if not is_large(model):
        return model, None
    files = {_place(tensor)[0] for tensor in outside_tensors(model)}
    folder = Path(os.path.commonpath([file.parent for file in files]))
    return _relocated(model, lambda path, offset: (path.relative_to(folder).as_posix(), offset)), folder


def hash_large(model: onnx.ModelProto) -> str:
    """SHA-256 over the model and all that is in its data files; independent of where they lie."""
    files = sorted({_place(tensor)[0] for tensor in outside_tensors(model)})
    names = {path: str(index) for index, path in enumerate(files)}
    placeless = _relocated(model, lambda path, offset: (names[path], offset))
    hashes = [hashlib.sha256(placeless.SerializeToString(deterministic=True)).hexdigest()]
    return hashlib.sha256("".join([*hashes, *map(sha256_of_file, files)]).encode()).hexdigest()


def data_path(model_path: Path) -> Path:
    """The data file of a large model that is written to `model_path`."""
    return model_path.with_name(f"{model_path.name}.data")


def save_large(model: onnx.ModelProto, path: Path) -> None:
    """Write a model and, beside it, one file with its weights: both or neither.

    The weights are copied: onnx refuses data files with several hard links, and would refuse the
    teacher's as well.

    Raises:
        UserError: they cannot be written, or would replace the files that the weights come from.
    """
    target = data_path(path)
    check_writable(path)
    sources = {_place(tensor)[0] for tensor in outside_tensors(model)}
    if real_path(target) in sources:
        raise UserError(f"cannot write {target}: that is where the model's weights are read from; give another name")
    offsets: dict[tuple[Path, int], int] = {}
    # The model goes into place last, so that it never stands there without its weights.
    with atomic_path(path) as small, atomic_path(target) as large:
        with large.open("wb") as stream:
            for tensor in outside_tensors(model):
                place = _place(tensor)
                if place[:2] not in offsets:
                    offsets[place[:2]] = _append(stream, *place)
        written = _relocated(model, lambda place, offset: (target.name, offsets[place, offset]))
        small.write_bytes(written.SerializeToString(deterministic=True))


def _append(stream: BinaryIO, source: Path, offset: int, length: int) -> int:
    """Copy a piece of a file to the end of another; where it starts there."""
    start = stream.tell() + -stream.tell() % _ALIGNMENT
    stream.write(bytes(start - stream.tell()))
    with source.open("rb") as data:
        data.seek(offset)
        while length > 0:
            piece = data.read(min(length, _CHUNK))
            if not piece:
                raise UserError(f"{source}: the file has become shorter while it was read; run this again")
            stream.write(piece)
            length -= len(piece)
    return start


def _place(tensor: onnx.TensorProto, folder: Path = Path()) -> tuple[Path, int, int]:
    """File, offset and length of a tensor's data."""
    entries = {entry.key: entry.value for entry in tensor.external_data}
    path = (folder / entries["location"]).resolve()
    offset = int(entries.get("offset", 0))
    return path, offset, int(entries.get("length", path.stat().st_size - offset))


def _set_place(tensor: onnx.TensorProto, location: str, offset: int, length: int) -> None:
    del tensor.external_data[:]
    for key, value in (("location", location), ("offset", offset), ("length", length)):
        tensor.external_data.add(key=key, value=str(value))


def _relocated(model: onnx.ModelProto, to: Callable[[Path, int], tuple[str, int]]) -> onnx.ModelProto:
    """A copy whose weights lie where `to` says, given file and offset."""
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    for tensor in outside_tensors(copy):
        path, offset, length = _place(tensor)
        _set_place(tensor, *to(path, offset), length)
    return copy
