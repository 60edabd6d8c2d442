"""The op alone, as a model of its own: what tests compare and benchmarks time."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import onnx
from onnx import TensorProto, helper

from kdguard.graph_passes.op.attributes import DOMAIN, PERTURB, RESTORE, VERSION, SvdPerturbAttributes
from kdguard.graph_passes.op.functions import op_functions


def one_op_model(
    attributes: SvdPerturbAttributes,
    *,
    rank: int = 4,
    channels: int | str = "c",
    dtype: int = TensorProto.FLOAT,
    restored: bool = False,
    strength: bool = False,
    opset: int = 18,
    functions: Sequence[onnx.FunctionProto] | None = None,
) -> onnx.ModelProto:
    """X -> SvdPerturb -> Y and change; with a restorer Y and change -> SvdRestore -> Z.

    Args:
        rank: axes of the map X, [n, c, d0, ...].
        channels: their number; the native kernels want to know it, a symbol leaves it open.
        dtype: of X, Y and Z; change is float32.
        restored: whether there is a restorer. Then change is no output.
        strength: whether the strength is a further input, a float32 scalar.
        functions: the op's bodies; by default this version's, which undo themselves exactly in 16 bits.

    Returns:
        A model with outputs (Y, change), or (Y, Z).
    """
    shape = ["n", channels, *(f"d{axis}" for axis in range(rank - 2))]
    given = ["X", "strength"] if strength else ["X"]
    named: dict[str, Any] = attributes.node_attributes()
    nodes = [helper.make_node(PERTURB, given, ["Y", "change"], domain=DOMAIN, **named)]
    inputs = [helper.make_tensor_value_info("X", dtype, shape)]
    if strength:
        inputs.append(helper.make_tensor_value_info("strength", TensorProto.FLOAT, []))
    maps = [helper.make_tensor_value_info(name, dtype, shape) for name in ("Y", "Z")]
    second = helper.make_tensor_value_info("change", TensorProto.FLOAT, shape if attributes.shared else [1])
    if restored:
        nodes.append(helper.make_node(RESTORE, ["Y", "change"], ["Z"], domain=DOMAIN))
        second = maps[1]
    # Shape inference is asked about tensors inside the graph only, which Y is too.
    graph = helper.make_graph(nodes, "op", inputs, [maps[0], second], value_info=maps[:1])
    bodies = op_functions(opset, exact_change=dtype != TensorProto.FLOAT) if functions is None else functions
    return helper.make_model(
        graph,
        opset_imports=[helper.make_opsetid("", opset), helper.make_opsetid(DOMAIN, VERSION)],
        functions=bodies,
        ir_version=10,
    )
