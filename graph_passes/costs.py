"""What running a graph costs and how deep each tensor lies, counted from shapes: deterministic, unlike timing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import prod

import onnx

from kdguard.graph_passes.layers import infer_value_infos, static_shape

PAIR_COST_PER_VALUE = 310.0
"""Multiply-adds of convolution in whose time onnxruntime's CPU provider does one paired node, per value of
the map: it is bound by memory. From benchmarks/op_cost.py."""


@dataclass(frozen=True)
class GraphCosts:
    """Multiply-adds of a graph at one input size.

    Attributes:
        total: of all convolutions and matrix products.
        depth: per tensor of the main graph, the share of them that lies before it, 0 to 1.
        shapes: per tensor whose size is known.
    """

    total: int
    depth: Mapping[str, float]
    shapes: Mapping[str, tuple[int, ...]]


def count_costs(model: onnx.ModelProto, input_shapes: Mapping[str, Sequence[int]]) -> GraphCosts:
    """Count multiply-adds along the main graph.

    Where shape inference finds no sizes, nodes without products count one each, so that depth still
    grows along the graph.

    Args:
        input_shapes: concrete shapes of the inputs that have free dimensions.
    """
    fixed = onnx.ModelProto()
    fixed.CopyFrom(model)
    del fixed.graph.value_info[:]  # they hold the free dimensions' names
    for value in (*fixed.graph.input, *fixed.graph.output):
        if value.name in input_shapes:
            value.type.tensor_type.ClearField("shape")
            for side in input_shapes[value.name]:
                value.type.tensor_type.shape.dim.add(dim_value=side)
        elif value in fixed.graph.output:
            value.type.tensor_type.ClearField("shape")
    values = infer_value_infos(fixed)
    shapes = {name: shape for name, value in values.items() if (shape := static_shape(value)) is not None}
    shapes |= {tensor.name: tuple(tensor.dims) for tensor in model.graph.initializer}
    shapes |= {name: tuple(shape) for name, shape in input_shapes.items()}
    spent = [_multiply_adds(node, shapes) for node in model.graph.node]
    total = sum(spent)
    # With no product known at all, depth is the place in the graph.
    weights = [float(cost) for cost in spent] if total else [1.0] * len(spent)
    whole, before, depth = sum(weights), 0.0, {}
    for node, weight in zip(model.graph.node, weights, strict=True):
        before += weight
        depth.update({name: before / whole for name in node.output if name})
    return GraphCosts(total, depth, shapes)


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
