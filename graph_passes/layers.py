"""Which feature maps of a model can carry the op, and picking them by name or operator."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase

import onnx

from kdguard.export.errors import UserError
from kdguard.graph_passes.op.attributes import DOMAIN, PERTURB, RESTORE

FLOAT_TYPES: dict[int, str] = {
    onnx.TensorProto.FLOAT: "float32",
    onnx.TensorProto.FLOAT16: "float16",
    onnx.TensorProto.BFLOAT16: "bfloat16",
}
NAME_PREFIX = f"{DOMAIN}/"
"""Tensors that kdguard adds carry this prefix; a layer keeps its public name."""


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
    counts: Counter[str] = Counter()
    for node in nodes:
        counts.update(name for name in node.input if name)
        for graph in subgraphs(node):
            counts.update(count_consumers(graph.node))
    return counts


def subgraphs(node: onnx.NodeProto) -> Iterator[onnx.GraphProto]:
    """The graphs in a node's attributes (If, Loop, Scan bodies)."""
    for attribute in node.attribute:
        if attribute.type == onnx.AttributeProto.GRAPH:
            yield attribute.g
        yield from attribute.graphs


def _shape(value: onnx.ValueInfoProto) -> tuple[int | str | None, ...] | None:
    tensor = value.type.tensor_type
    if not tensor.HasField("shape"):
        return None
    return tuple(dim.dim_value if dim.HasField("dim_value") else (dim.dim_param or None) for dim in tensor.shape.dim)


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
        if name.startswith(NAME_PREFIX) or name in outputs or not consumers[name] or name not in values:
            continue
        hardened = node.domain == DOMAIN and node.op_type == PERTURB
        if node.domain == DOMAIN and node.op_type == RESTORE:
            continue
        shape = _shape(values[name])
        dtype = FLOAT_TYPES.get(values[name].type.tensor_type.elem_type)
        if dtype is None or shape is None or not 3 <= len(shape) <= 5 or shape[1] == 1:
            continue
        source = producers.get(node.input[0], node) if hardened else node
        read_by = tuple(readers.get(name, ()))
        layers.append(Layer(name, source.op_type, source.name, dtype, shape, consumers[name], hardened, read_by))
    return layers


def select_layers(layers: Sequence[Layer], globs: Sequence[str] = (), op_types: Sequence[str] = ()) -> list[Layer]:
    """Layers whose tensor or node name matches a glob, or whose operator is listed; graph order.

    Raises:
        UserError: a glob or operator matches nothing (with the names that exist), or nothing was asked for.
    """
    if not any(globs) and not any(op_types):
        raise UserError("no layers asked for: give a glob (--layers 'relu_*') or an operator (--op-type Relu)")
    names = ", ".join(layer.name for layer in layers[:8]) + (", ..." if len(layers) > 8 else "")
    for glob in globs:
        if not any(_matches(layer, glob) for layer in layers):
            raise UserError(
                f"--layers {glob!r} matches none of the {len(layers)} feature maps ({names or 'none eligible'}); "
                "see `kdguard inspect MODEL`"
            )
    for op_type in op_types:
        if not any(layer.op_type == op_type for layer in layers):
            known = ", ".join(sorted({layer.op_type for layer in layers})) or "none eligible"
            raise UserError(f"--op-type {op_type!r} produces none of the feature maps; these do: {known}")
    return [layer for layer in layers if layer.op_type in op_types or any(_matches(layer, glob) for glob in globs)]


def _matches(layer: Layer, glob: str) -> bool:
    return fnmatchcase(layer.name, glob) or (bool(layer.node) and fnmatchcase(layer.node, glob))
