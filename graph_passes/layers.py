"""Which feature maps of a model can carry the op, and picking them by name or operator."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase

import onnx

from kdguard.export.errors import UserError
from kdguard.export.graph_bodies import nodes_with_bodies, subgraphs
from kdguard.graph_passes.op.attributes import DOMAIN, PERTURB, RESTORE

FLOAT_TYPES: dict[int, str] = {
    onnx.TensorProto.FLOAT: "float32",
    onnx.TensorProto.FLOAT16: "float16",
    onnx.TensorProto.BFLOAT16: "bfloat16",
}
NAME_PREFIX = f"{DOMAIN}/"
"""Tensors that kdguard adds carry this prefix; a layer keeps its public name."""
CLEAN_SUFFIX = "/in"
"""And the map that it was before, which its node reads, has the name between these two."""


@dataclass(frozen=True)
class Layer:
    """A feature map that can be perturbed: a floating-point tensor [N, C, spatial...] of rank 3 to 5.

    Attributes:
        name: of the tensor.
        op_type: operator that produces it; where the layer is hardened, the clean one's producer.
        node: name of that node.
        shape: one entry per axis, an int, a symbol or None.
        consumers: how many node inputs read it, subgraphs included.
        hardened: whether a kdguard node already produces it.
        readers: operators that read it, each once; a body that reads it counts as the node that has it.
    """

    name: str
    op_type: str
    node: str
    dtype: str
    shape: tuple[int | str | None, ...]
    consumers: int
    hardened: bool
    readers: tuple[str, ...] = ()


def count_consumers(nodes: Sequence[onnx.NodeProto]) -> Counter[str]:
    """How often each tensor is read by these nodes and by the subgraphs inside them."""
    return Counter(name for node in nodes_with_bodies(nodes) for name in node.input if name)


def _shape(value: onnx.ValueInfoProto) -> tuple[int | str | None, ...] | None:
    tensor = value.type.tensor_type
    if not tensor.HasField("shape"):
        return None
    return tuple(dim.dim_value if dim.HasField("dim_value") else (dim.dim_param or None) for dim in tensor.shape.dim)


def rename_tensors(nodes: Iterable[onnx.NodeProto], names: Mapping[str, str]) -> None:
    """Give tensors other names wherever nodes read or write them, bodies included, in place."""
    for node in nodes:
        node.input[:] = [names.get(name, name) for name in node.input]
        node.output[:] = [names.get(name, name) for name in node.output]
        for graph in subgraphs(node):
            rename_tensors(graph.node, names)
            for value in graph.output:
                value.name = names.get(value.name, value.name)


def keep_only(entries, wanted) -> None:  # type: ignore[no-untyped-def]  # protobuf's containers have no common type
    """Keep the wanted entries of a repeated field, in place."""
    kept = [entry for entry in entries if wanted(entry)]
    del entries[:]
    entries.extend(kept)


def static_shape(value: onnx.ValueInfoProto) -> tuple[int, ...] | None:
    """The shape where every dimension is a number, else None."""
    shape = _shape(value)
    return shape if shape is not None and all(isinstance(side, int) for side in shape) else None  # type: ignore[return-value]


def infer_value_infos(model: onnx.ModelProto) -> dict[str, onnx.ValueInfoProto]:
    """Types and shapes of the main graph's tensors, by name, as far as inference finds them."""
    skeleton = onnx.ModelProto()
    skeleton.CopyFrom(model)
    for tensor in skeleton.graph.initializer:
        # Shapes of weights decide shapes of maps; their values do not, unless they are small
        # (Reshape targets, Resize scales), so the large ones need not be copied about.
        if len(tensor.raw_data) > 4096:
            tensor.ClearField("raw_data")
            tensor.data_location = onnx.TensorProto.EXTERNAL
            tensor.external_data.add(key="location", value="elsewhere")
    try:
        inferred = onnx.shape_inference.infer_shapes(skeleton, data_prop=True)
    except onnx.shape_inference.InferenceError:
        inferred = skeleton
    # Inference numbers its own symbols anew in every run. Written into a file they would tie maps of
    # different runs together, and onnxruntime trusts equal symbols to mean equal sizes.
    declared = _symbols((*model.graph.input, *model.graph.output, *model.graph.value_info))
    for value in inferred.graph.value_info:
        for dimension in value.type.tensor_type.shape.dim:
            if dimension.dim_param and dimension.dim_param not in declared:
                dimension.ClearField("dim_param")
    return {value.name: value for value in inferred.graph.value_info}


def _symbols(values: Iterable[onnx.ValueInfoProto]) -> set[str]:
    return {dim.dim_param for value in values for dim in value.type.tensor_type.shape.dim}


def find_layers(model: onnx.ModelProto, values: Mapping[str, onnx.ValueInfoProto] | None = None) -> list[Layer]:
    """Every tensor of the main graph that can carry the op, in graph order.

    Left out: graph inputs and outputs (an output belongs to the caller), tensors nobody reads, maps
    of a single channel, and the helper tensors of nodes that kdguard inserted.

    Args:
        values: from `infer_value_infos`, where the caller has them already.
    """
    values = infer_value_infos(model) if values is None else values
    consumers = count_consumers(model.graph.node)
    outputs = {value.name for value in model.graph.output}
    producers = {name: node for node in model.graph.node for name in node.output if name}
    readers: dict[str, dict[str, None]] = {}
    for node in model.graph.node:
        for name in count_consumers([node]):
            readers.setdefault(name, {})[node.op_type] = None
    layers = []
    for name, node in producers.items():
        if _is_ours(name, node) or _obstacle(name, values, consumers, outputs):
            continue
        hardened = node.domain == DOMAIN and node.op_type == PERTURB
        shape = _shape(values[name])
        assert shape is not None
        source = producers.get(node.input[0], node) if hardened else node
        shape = tuple(side or None for side in shape)  # some exporters write 0 for a free axis
        dtype = FLOAT_TYPES[values[name].type.tensor_type.elem_type]
        read_by = tuple(readers.get(name, ()))
        layers.append(Layer(name, source.op_type, source.name, dtype, shape, consumers[name], hardened, read_by))
    return layers


def find_obstacles(model: onnx.ModelProto, values: Mapping[str, onnx.ValueInfoProto]) -> dict[str, str]:
    """Why each tensor that cannot carry the op cannot, by tensor and by node name.

    Args:
        values: from `infer_value_infos`.
    """
    consumers = count_consumers(model.graph.node)
    outputs = {value.name for value in model.graph.output}
    obstacles = {value.name: "it is an input of the model" for value in model.graph.input}
    for node in model.graph.node:
        for name in node.output:
            if name and not _is_ours(name, node) and (why := _obstacle(name, values, consumers, outputs)):
                obstacles[name] = obstacles[node.name] = why
        for graph in subgraphs(node):
            inside = f"it lies inside the body of {node.op_type} node {node.name!r}; only the main graph is hardened"
            obstacles |= dict.fromkeys((name for inner in graph.node for name in (*inner.output, inner.name)), inside)
    obstacles.pop("", None)
    return obstacles


def _is_ours(name: str, node: onnx.NodeProto) -> bool:
    return name.startswith(NAME_PREFIX) or (node.domain == DOMAIN and node.op_type == RESTORE)


def _obstacle(
    name: str, values: Mapping[str, onnx.ValueInfoProto], consumers: Mapping[str, int], outputs: Collection[str]
) -> str | None:
    """Why a tensor of the main graph cannot carry the op, or None where it can."""
    if name in outputs:
        return "it is an output of the model and belongs to the caller"
    if not consumers.get(name):
        return "nobody reads it"
    shape = _shape(values[name]) if name in values else None
    if shape is None:
        return "shape inference does not find its shape, often because of an operator that onnx does not know"
    kind = values[name].type.tensor_type.elem_type
    if kind not in FLOAT_TYPES:
        held, taken = onnx.TensorProto.DataType.Name(kind).lower(), ", ".join(FLOAT_TYPES.values())
        return f"it holds {held}, and the op takes {taken}"
    if not 3 <= len(shape) <= 5:
        return f"it has rank {len(shape)}, and the op takes maps [N, C, spatial...] of rank 3 to 5"
    return "it has a single channel, so one singular value is all of it" if shape[1] == 1 else None


def select_layers(
    layers: Sequence[Layer],
    globs: Sequence[str] = (),
    op_types: Sequence[str] = (),
    obstacles: Mapping[str, str] | None = None,
    option: str = "--layers",
) -> list[Layer]:
    """Layers whose tensor or node name matches a glob, or whose operator is listed; graph order.

    Args:
        obstacles: from `find_obstacles`, so that a glob that matches no layer can be told why.
        option: that globs came from, for messages.

    Raises:
        UserError: a glob or operator matches nothing (with the names that exist), or nothing was asked for.
    """
    if not any(globs) and not any(op_types):
        raise UserError("no layers asked for: give a glob (--layers 'relu_*') or an operator (--op-type Relu)")
    names = ", ".join(layer.name for layer in layers[:8]) + (", ..." if len(layers) > 8 else "")
    for glob in globs:
        if not any(_matches(layer, glob) for layer in layers):
            for name, why in (obstacles or {}).items():
                if fnmatchcase(name, glob):
                    raise UserError(
                        f"{option} {glob!r}: {name!r} cannot be hardened: {why}; see `kdguard inspect MODEL`"
                    )
            raise UserError(
                f"{option} {glob!r} matches none of the {len(layers)} feature maps ({names or 'none eligible'}); "
                "see `kdguard inspect MODEL`"
            )
    for op_type in op_types:
        if not any(layer.op_type == op_type for layer in layers):
            known = ", ".join(sorted({layer.op_type for layer in layers})) or "none eligible"
            raise UserError(f"--op-type {op_type!r} produces none of the feature maps; these do: {known}")
    return [layer for layer in layers if layer.op_type in op_types or any(_matches(layer, glob) for glob in globs)]


def _matches(layer: Layer, glob: str) -> bool:
    return layer.name == glob or fnmatchcase(layer.name, glob) or (bool(layer.node) and fnmatchcase(layer.node, glob))
