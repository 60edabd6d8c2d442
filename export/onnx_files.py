"""Reading and writing ONNX files that nobody has vouched for.

A model file is untrusted input: its external data may name any path on the machine. Everything
is resolved and checked before a byte of it is read.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path, PurePosixPath, PureWindowsPath

import onnx
from google.protobuf.message import DecodeError
from onnx.external_data_helper import load_external_data_for_model, uses_external_data

from kdguard.export.errors import UserError
from kdguard.export.files import atomic_path

PROTOBUF_LIMIT = 2**31 - 1
_EXTERNAL_KEYS = {"location", "offset", "length", "checksum", "basepath"}


def _tensors_of_nodes(nodes: object) -> Iterator[onnx.TensorProto]:
    for node in nodes:  # type: ignore[attr-defined]
        for attribute in node.attribute:
            if attribute.HasField("t"):
                yield attribute.t
            yield from attribute.tensors
            for graph in (attribute.g, *attribute.graphs) if attribute.HasField("g") else attribute.graphs:
                yield from _tensors_of_graph(graph)


def _tensors_of_graph(graph: onnx.GraphProto) -> Iterator[onnx.TensorProto]:
    yield from graph.initializer
    for sparse in graph.sparse_initializer:
        yield sparse.values
        yield sparse.indices
    yield from _tensors_of_nodes(graph.node)


def all_tensors(model: onnx.ModelProto) -> Iterator[onnx.TensorProto]:
    """Every constant tensor of a model: initializers, attributes, subgraphs and functions."""
    yield from _tensors_of_graph(model.graph)
    for function in model.functions:
        yield from _tensors_of_nodes(function.node)


def _check_external_tensor(tensor: onnx.TensorProto, path: Path) -> None:
    """Refuse external data that leaves the model's folder or lies about its size."""
    entries = {entry.key: entry.value for entry in tensor.external_data}
    where = f"{path}: tensor {tensor.name!r}"
    if unknown := set(entries) - _EXTERNAL_KEYS:
        raise UserError(f"{where} has unknown external-data keys {sorted(unknown)}; re-save the model")
    location = entries.get("location", "")
    parts = PurePosixPath(location).parts + PureWindowsPath(location).parts
    if not location or PurePosixPath(location).is_absolute() or PureWindowsPath(location).drive or ".." in parts:
        raise UserError(
            f"{where} keeps its data at {location!r}, outside the model's folder; refusing to read it: "
            "re-save the model with its data beside it"
        )
    folder = path.parent.resolve()
    data = (folder / location).resolve()
    if not data.is_relative_to(folder):
        raise UserError(
            f"{where} keeps its data at {location!r}, a link that leaves the model's folder; refusing to "
            "read it: re-save the model with its data beside it"
        )
    if not data.is_file():
        raise UserError(f"{where} needs the file {folder / location}, which is missing; copy it beside the model")
    try:
        offset = int(entries.get("offset", 0))
        length = int(entries.get("length", data.stat().st_size - offset))
    except ValueError as error:
        raise UserError(
            f"{where} has an external-data offset or length that is no number; re-save the model"
        ) from error
    if offset < 0 or length < 0 or offset + length > data.stat().st_size:
        raise UserError(
            f"{where} reaches outside its data file {location!r} ({data.stat().st_size} bytes); the file is "
            "truncated or the model is damaged"
        )


def _first_line(error: Exception) -> str:
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)


def load_onnx(path: Path) -> onnx.ModelProto:
    """Read an ONNX model with its external data, after checking both.

    Raises:
        UserError: missing, empty, truncated or invalid file, or external data that is missing or
            lies outside the model's folder.
    """
    if not path.exists():
        raise UserError(f"{path}: no such file; give the path of an ONNX model")
    if not path.is_file():
        raise UserError(f"{path}: not a file; give the path of an ONNX model")
    if path.stat().st_size == 0:
        raise UserError(f"{path}: the file is empty; give the path of an ONNX model")
    try:
        model = onnx.load_model(str(path), load_external_data=False)
    except (DecodeError, ValueError) as error:
        raise UserError(f"{path}: not an ONNX file, or a truncated one ({_first_line(error)})") from error
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror}") from error
    if not model.graph.node or not model.opset_import:
        raise UserError(f"{path}: not an ONNX file, or a truncated one (it holds no graph)")
    external = [tensor for tensor in all_tensors(model) if uses_external_data(tensor)]
    for tensor in external:
        _check_external_tensor(tensor, path)
    try:
        onnx.checker.check_model(str(path))
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        raise UserError(f"{path}: not a valid ONNX model: {_first_line(error)}") from error
    if external:
        load_external_data_for_model(model, str(path.parent))
    return model


def save_onnx(model: onnx.ModelProto, path: Path) -> None:
    """Write a model to one file, atomically and reproducibly (same model, same bytes).

    Raises:
        UserError: the folder cannot be written, or the model exceeds protobuf's 2 GB.
    """
    if model.ByteSize() > PROTOBUF_LIMIT:
        raise UserError(f"cannot write {path}: the model is over 2 GB, more than one ONNX file holds")
    with atomic_path(path) as temporary:
        temporary.write_bytes(model.SerializeToString(deterministic=True))


def default_opset(model: onnx.ModelProto) -> int:
    """Version of the standard operator set that a model imports, 0 if it imports none."""
    return next((o.version for o in model.opset_import if o.domain in ("", "ai.onnx")), 0)
