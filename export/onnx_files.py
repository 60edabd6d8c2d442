"""Reading and writing ONNX files that nobody has vouched for.

A model file is untrusted input: its external data may name any path on the machine. Everything
is resolved and checked before a byte of it is read.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path, PurePosixPath, PureWindowsPath

import onnx
from google.protobuf.message import DecodeError
from onnx.external_data_helper import load_external_data_for_model, uses_external_data

from kdguard.export import large_models
from kdguard.export.errors import UserError, first_line
from kdguard.export.file_kinds import other_kind
from kdguard.export.files import atomic_path, sha256_of_file

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
    try:
        data = (folder / location).resolve()
        present = data.is_file()
    except (OSError, ValueError, RuntimeError) as error:  # NUL, names too long, circles of links
        raise UserError(f"{where} keeps its data at a path that cannot be followed; re-save the model") from error
    if not data.is_relative_to(folder):
        raise UserError(
            f"{where} keeps its data at {location!r}, a link that leaves the model's folder; refusing to "
            "read it: re-save the model with its data beside it"
        )
    if not present:
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


def _external_tensors(model: onnx.ModelProto, path: Path) -> list[onnx.TensorProto]:
    """The tensors whose data lies outside the model file, each checked.

    Raises:
        UserError: one of them cannot be accepted.
    """
    external = [tensor for tensor in all_tensors(model) if uses_external_data(tensor)]
    for tensor in external:
        _check_external_tensor(tensor, path)
    return external


def _external_length(tensor: onnx.TensorProto, path: Path) -> int:
    entries = {entry.key: entry.value for entry in tensor.external_data}
    size = (path.parent / entries["location"]).stat().st_size
    return int(entries.get("length", size - int(entries.get("offset", 0))))


def load_onnx(path: Path | str) -> onnx.ModelProto:
    """Read an ONNX model with its external data, after checking both.

    Of models with more than `large_models.INLINE_LIMIT` bytes of it the weights stay in their files,
    and the model knows where they are.

    Raises:
        UserError: missing, empty, truncated or invalid file, or external data that is missing or
            lies outside the model's folder.
    """
    path = Path(path)
    model, external = _read_checked(path)
    if sum(_external_length(tensor, path) for tensor in external) > large_models.INLINE_LIMIT:
        large_models.keep_outside(model, external, path.parent)
    elif external:
        load_external_data_for_model(model, str(path.parent))
    _drop_negative_dimensions(model)
    return model


def read_outline(path: Path) -> onnx.ModelProto:
    """A model file as it stands, checked like `load_onnx` does, with external data left in its files.

    Raises:
        UserError: as `load_onnx`.
    """
    return _read_checked(path)[0]


def _read_checked(path: Path) -> tuple[onnx.ModelProto, list[onnx.TensorProto]]:
    """The model file's content, and its tensors whose data lies in other files."""
    try:
        if not path.exists():
            raise UserError(f"{path}: no such file; give the path of an ONNX model")
        if not path.is_file():
            raise UserError(f"{path}: not a file; give the path of an ONNX model")
        if path.stat().st_size == 0:
            raise UserError(f"{path}: the file is empty; give the path of an ONNX model")
        model = onnx.load_model(str(path), format="protobuf", load_external_data=False)
    except (DecodeError, ValueError) as error:
        raise _not_onnx(path, first_line(error)) from error
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror}") from error
    if not model.graph.node or not model.opset_import:
        raise _not_onnx(path, "it holds no graph")
    external = _external_tensors(model, path)
    try:
        onnx.checker.check_model(str(path))
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError, ValueError, RuntimeError) as error:
        raise UserError(f"{path}: not a valid ONNX model: {first_line(error)}") from error
    return model, external


def _not_onnx(path: Path, reason: str) -> UserError:
    return UserError(f"{path}: {other_kind(path) or f'not an ONNX file, or a truncated one ({reason})'}")


def _drop_negative_dimensions(model: onnx.ModelProto) -> None:
    """Some exporters write -1 for a dynamic size; ONNX says it by leaving the size out."""
    for value in (*model.graph.input, *model.graph.output, *model.graph.value_info):
        for dimension in value.type.tensor_type.shape.dim:
            if dimension.dim_value < 0:
                dimension.ClearField("dim_value")


def model_files(path: Path) -> list[Path]:
    """The model file and the files of its external data.

    A file that does not parse, or whose external data is not acceptable, is alone: whoever loads it
    says what is wrong.
    """
    try:
        if not path.is_file():  # a pipe would be waited for
            return [path]
        model = onnx.load_model(str(path), format="protobuf", load_external_data=False)
        external = _external_tensors(model, path)
    except (DecodeError, ValueError, OSError, UserError):
        return [path]
    locations = {entry.value for tensor in external for entry in tensor.external_data if entry.key == "location"}
    return [path, *(path.parent / location for location in sorted(locations))]


def sha256_of_model(path: Path) -> str:
    """SHA-256 of a model file; with external data, of the hashes of the file and of every data file."""
    hashes = [sha256_of_file(file) for file in model_files(path)]
    return hashes[0] if len(hashes) == 1 else hashlib.sha256("".join(hashes).encode()).hexdigest()


def serialise(model: onnx.ModelProto) -> bytes:
    """The model as the bytes of one file; same model, same bytes.

    Raises:
        UserError: it exceeds protobuf's 2 GB, or its weights lie in data files.
    """
    if large_models.is_large(model) or model.ByteSize() > PROTOBUF_LIMIT:
        raise UserError("the model is over 2 GB, more than one ONNX file holds")
    return model.SerializeToString(deterministic=True)


def save_onnx(model: onnx.ModelProto, path: Path | str) -> None:
    """Write a model to one file, atomically; a large one with a data file beside it, named after it.

    Raises:
        UserError: the folder cannot be written, or the model is too large.
    """
    if large_models.is_large(model):
        large_models.save_large(model, Path(path))
        return
    content = serialise(model)
    with atomic_path(Path(path)) as temporary:
        temporary.write_bytes(content)


def hash_model(model: onnx.ModelProto) -> str:
    """SHA-256 of a model's content, weights in data files included."""
    if large_models.is_large(model):
        return large_models.hash_large(model)
    return hashlib.sha256(serialise(model)).hexdigest()


def default_opset(model: onnx.ModelProto) -> int:
    """Version of the standard operator set that a model imports, 0 if it imports none."""
    return next((o.version for o in model.opset_import if o.domain in ("", "ai.onnx")), 0)
