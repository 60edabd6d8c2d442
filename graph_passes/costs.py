"""What running a graph costs and how deep each tensor lies, counted from shapes: deterministic, unlike timing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import prod

import onnx

from kdguard.graph_passes.inventory import hardened_layers
from kdguard.graph_passes.layers import find_layers, infer_value_infos, static_shape

PER_VALUE, PER_NODE = 27.0, 1e6
"""In multiply-adds of convolution on onnxruntime's CPU provider: reading or writing one value of a tensor,
and calling one node."""
PAIRED_PER_VALUE, IN_PATH_PER_VALUE = 350.0, 200.0
"""The same for one paired and one in-path node, per value of the map."""
PER_OP, PER_VECTOR, PRODUCTS_PER_VECTOR = 1.5e7, 1.8e7, 20
"""And for the nodes of one op, for those that find one singular vector, and how many C x C products that takes.

benchmarks/zoo_latency.py measures what the sum of them is worth. Per value the measured cost hardly depends on the
model; it is clean models of DFTs, of small products or of large element-wise maps that take several times longer than
counted here, so that the ratio is estimated too high for them."""
ACTIVATIONS = ("Relu", "LeakyRelu", "PRelu", "Clip", "Sigmoid", "Tanh", "HardSigmoid")
UNFUSED = 1.5
"""Factor on a paired node between a convolution and its activation, which runtimes fuse otherwise."""


def op_cost(values: int, channels: int, rank: int, *, paired: bool) -> float:
    """What one hardened layer costs, in multiply-adds of convolution.

    Args:
        values: of the feature map, all channels.
    """
    per_value = PAIRED_PER_VALUE if paired else IN_PATH_PER_VALUE
    return per_value * values + PER_OP + rank * (PER_VECTOR + PRODUCTS_PER_VECTOR * channels**3)


def pair_cost(values: int, channels: int, rank: int, op_type: str, readers: Sequence[str]) -> float:
    """The same for a paired one, with what it takes from the runtime's fusion.

    Args:
        op_type: operator that produces the map.
        readers: operators that read it.
    """
    fused = op_type == "Conv" and len(readers) == 1 and readers[0] in ACTIVATIONS
    return (UNFUSED if fused else 1.0) * op_cost(values, channels, rank, paired=True)


@dataclass(frozen=True)
class GraphCosts:
    """Multiply-adds of a graph at one input size.

    Attributes:
        total: multiply-adds of all convolutions and matrix products, and what every node and every value
            costs, in multiply-adds.
        depth: per tensor of the main graph, the share of the total that lies before it, 0 to 1.
        shapes: per tensor whose size is known.
    """

    total: float
    depth: Mapping[str, float]
    shapes: Mapping[str, tuple[int, ...]]


def count_costs(model: onnx.ModelProto, input_shapes: Mapping[str, Sequence[int]]) -> GraphCosts:
    """Count along the main graph; what shape inference finds no size for counts as a node and no more.

    Args:
        input_shapes: concrete shapes of the inputs that have free dimensions.
    """
    fixed = onnx.ModelProto()
    fixed.CopyFrom(model)
    del fixed.graph.value_info[:]  # they hold the free dimensions' names
    del fixed.graph.output[:]  # so that inference treats them like any other tensor
    for value in fixed.graph.input:
        if value.name in input_shapes:
            value.type.tensor_type.ClearField("shape")
            for side in input_shapes[value.name]:
                value.type.tensor_type.shape.dim.add(dim_value=side)
    values = infer_value_infos(fixed)
    shapes = {name: shape for name, value in values.items() if (shape := static_shape(value)) is not None}
    shapes |= {tensor.name: tuple(tensor.dims) for tensor in model.graph.initializer}
    shapes |= {name: tuple(shape) for name, shape in input_shapes.items()}
    products = [_multiply_adds(node, shapes) for node in model.graph.node]
    total, depth = 0.0, {}
    weights = {tensor.name for tensor in model.graph.initializer}
    for node, spent in zip(model.graph.node, products, strict=True):
        touched = sum(prod(shapes.get(name, ())) for name in (*node.input, *node.output) if name not in weights)
        total += spent + PER_VALUE * touched + PER_NODE
        depth.update({name: total for name in node.output if name})
    return GraphCosts(total, {name: before / total for name, before in depth.items()}, shapes)


def estimated_ratio(
    clean: onnx.ModelProto, hardened: onnx.ModelProto, input_shapes: Mapping[str, Sequence[int]]
) -> float:
    """Hardened over clean time, estimated as `kdguard harden` does when it chooses layers.

    Args:
        input_shapes: as for `count_costs`.

    Raises:
        ValueError: shape inference does not find the size of a hardened layer.
    """
    costs, added = count_costs(clean, input_shapes), 0.0
    layers = {layer.name: layer for layer in find_layers(clean)}
    for entry in hardened_layers(hardened):
        if (shape := costs.shapes.get(entry.layer)) is None:
            raise ValueError(f"the size of layer {entry.layer!r} is not known")
        size = prod(shape), shape[1], entry.op.rank
        layer = layers[entry.layer]
        paired = entry.placement == "paired"
        added += pair_cost(*size, layer.op_type, layer.readers) if paired else op_cost(*size, paired=False)
    return 1 + added / costs.total


def _multiply_adds(node: onnx.NodeProto, shapes: Mapping[str, tuple[int, ...]]) -> int:
    output = shapes.get(node.output[0]) if node.output else None
    if output is None or len(node.input) < 2:
        return 0
    first, second = shapes.get(node.input[0]), shapes.get(node.input[1])
    if node.op_type == "Conv" and second:
        return prod(output) * prod(second[1:])
    if node.op_type == "ConvTranspose" and first and second:
        return prod(first) * prod(second[1:])
    if node.op_type in ("MatMul", "Gemm") and first:
        return prod(output) * first[-1]
    return 0
