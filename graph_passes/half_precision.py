"""The model in 16 bits, for engines: weights and maps in fp16, the op in fp32 inside as ever."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import numpy as np
import onnx
import onnx_ir
from onnx import numpy_helper
from onnx_ir.passes import InPlacePass, Sequential
from onnx_ir.passes.common import (
    InlinePass,
    LiftConstantsToInitializersPass,
    NameFixPass,
    TopologicalSortPass,
)

from kdguard.export.errors import first_line
from kdguard.export.graph_bodies import nodes_with_bodies
from kdguard.export.large_models import is_large
from kdguard.export.onnx_files import default_opset
from kdguard.graph_passes.insert_key_gate import InsertKeyGate
from kdguard.graph_passes.key_gate.inventory import read_gate
from kdguard.graph_passes.key_gate.views import ensemble_views
from kdguard.graph_passes.layers import NAME_PREFIX
from kdguard.graph_passes.op.attributes import DOMAIN
from kdguard.graph_passes.op.functions import op_functions
from kdguard.graph_passes.pass_base import GraphPass, PassResult, PreconditionError, full_check_problem
from kdguard.graph_passes.remove_key_gate import RemoveKeyGate

FLOAT, FLOAT16, BFLOAT16 = onnx.TensorProto.FLOAT, onnx.TensorProto.FLOAT16, onnx.TensorProto.BFLOAT16
PLACEHOLDER = "kdguard_placeholder_"
IN_FLOAT = (
    "DFT",
    "Exp",
    "GlobalAveragePool",
    "GroupNormalization",
    "InstanceNormalization",
    "LayerNormalization",
    "Log",
    "LpNormalization",
    "Pow",
    "Reciprocal",
    "ReduceL1",
    "ReduceL2",
    "ReduceLogSumExp",
    "ReduceMean",
    "ReduceProd",
    "ReduceSum",
    "ReduceSumSquare",
    "Sqrt",
)
"""Powers, and sums over many values, leave the range of fp16 on maps well inside it; roots bring them back."""
ELEMENTWISE = ("Add", "Clip", "Div", "Max", "Min", "Mul", "Neg", "Sub")
"""They stay in float where all that they read did: such is the epsilon between a variance and its root."""

SCALARS = 16
"""Tensors of up to so many values are constants of a formula, an epsilon say; larger ones are weights, of which the
smallest values do not matter."""
ROUNDED_AWAY = 0.01
"""Relative error from which a constant is another one."""


class HalfPrecision(GraphPass):
    """Float weights and maps become fp16; inputs and outputs stay float.

    1. onnxruntime's converter does it, and leaves operators in float that lack 16 bits or need more, `IN_FLOAT` among
       them, and readers of constants that fp16 does not hold.
    2. Between two operators that stay in float nothing is rounded.
    3. The converter knows nothing of our nodes, so identities stand in for them meanwhile. They come back with fp16
       maps and the functions that undo themselves exactly in 16 bits; what one node hands to another stays float.
    4. Somebody else's functions are written out first.
    5. A key gate steps aside meanwhile and stays float: sums of its hash leave the range of fp16.
    """

    def requires(self, model: onnx.ModelProto) -> None:
        if is_large(model):
            raise PreconditionError("fp16: the model keeps its weights in data files; convert it before hardening")
        if any(tensor.data_type == BFLOAT16 for tensor in _constants(model)):
            raise PreconditionError("fp16: the model's weights are bfloat16, whose range fp16 does not hold")
        if ensemble_views(model):
            raise PreconditionError("fp16: the model's gate opens an ensemble; half precision first, then the gate")

    def call(self, model: onnx.ModelProto) -> PassResult:
        from onnxruntime.transformers.float16 import DEFAULT_OP_BLOCK_LIST, convert_float_to_float16

        if not any(tensor.data_type == FLOAT for tensor in _weights(model)):
            return PassResult(model, modified=False)
        if gate := read_gate(model):
            without = self(RemoveKeyGate()(model).model)
            again = InsertKeyGate(gate.digests, gate.hints, required=gate.required, seed=gate.seed)
            return again(without.model) if without.modified else PassResult(model, modified=False)
        plain = onnx.ModelProto()
        plain.CopyFrom(model)
        kept = _replaced(plain)
        # The converter overlooks functions, and constants that are no tensors.
        lift = LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=0)
        plain = _by(plain, InlinePass(lambda function: function.domain != DOMAIN), NameFixPass(), lift)
        del plain.functions[:]
        in_float = _in_float(plain)
        _own_constants(plain, in_float)
        half = convert_float_to_float16(
            plain,
            keep_io_types=True,
            op_block_list=DEFAULT_OP_BLOCK_LIST,
            node_block_list=[node.name for node in in_float],
        )
        half = _by(half, TopologicalSortPass())  # the converter puts its casts at the end
        _drop_roundings(half, {node.name for node in in_float})
        for node in half.graph.node:
            if original := kept.get(node.name):
                original.input[0], original.output[0] = node.input[0], node.output[0]
                node.CopyFrom(original)
        del half.graph.value_info[:]  # says float where bodies of If and Loop became fp16
        if any(function.domain == DOMAIN for function in model.functions):
            half.functions.extend(op_functions(default_opset(half), exact_change=True))
        return PassResult(half, modified=True)

    def ensures(self, result: PassResult, original: onnx.ModelProto) -> None:
        problem = full_check_problem(result.model) if result.modified else None
        if problem and full_check_problem(original) is None:  # no bug of ours: the converter does not know better
            raise PreconditionError(
                f"fp16: onnxruntime's converter makes no valid model of this one ({first_line(ValueError(problem))}); "
                "operators inside If and Loop bodies are a usual cause: build it as it is"
            )


def _by(model: onnx.ModelProto, *passes: InPlacePass) -> onnx.ModelProto:
    graph = onnx_ir.from_proto(model)
    Sequential(*passes)(graph)
    return onnx_ir.to_proto(graph)


def _replaced(model: onnx.ModelProto) -> dict[str, onnx.NodeProto]:
    """Identities in place of our nodes, and what stood there by their names."""
    kept = {}
    for index, node in enumerate(model.graph.node):
        if node.domain == DOMAIN:
            original = onnx.NodeProto()
            original.CopyFrom(node)
            name = f"{PLACEHOLDER}{index}"
            node.CopyFrom(onnx.helper.make_node("Identity", [original.input[0]], [original.output[0]], name))
            kept[name] = original
    return kept


def _weights(model: onnx.ModelProto) -> Iterator[onnx.TensorProto]:
    """Constants of more than a few values, those of nodes included; all of them where there are no such."""
    tensors = [tensor for tensor in _constants(model) if not tensor.name.startswith(NAME_PREFIX)]
    large = [tensor for tensor in tensors if math.prod(tensor.dims) > SCALARS]
    yield from large or tensors


def _constants(model: onnx.ModelProto) -> Iterator[onnx.TensorProto]:
    yield from model.graph.initializer
    nodes = [*model.graph.node, *(node for function in model.functions for node in function.node)]
    for node in nodes_with_bodies(nodes):
        yield from (attribute.t for attribute in node.attribute if attribute.HasField("t"))


def _in_float(model: onnx.ModelProto) -> list[onnx.NodeProto]:
    """Nodes that stay in float: by their operator, for a constant that they read, or in a formula between such."""
    lost = {tensor.name for tensor in model.graph.initializer if tensor.data_type == FLOAT and _is_lost(tensor)}
    constants = {tensor.name for tensor in model.graph.initializer} | {""}
    wide: set[str] = set()
    found = []
    for node in model.graph.node:
        read = {*node.input} - constants
        between = node.op_type in ELEMENTWISE and read and read <= wide
        if node.op_type in IN_FLOAT or lost & {*node.input} or between:
            found.append(node)
            wide.update(node.output)
    return found


def _own_constants(model: onnx.ModelProto, in_float: Sequence[onnx.NodeProto]) -> None:
    """Give nodes that stay in float constants of their own: the converter would round shared ones, and stumbles."""
    constants = {tensor.name: tensor for tensor in model.graph.initializer if tensor.data_type == FLOAT}
    for node in in_float:
        for position, name in enumerate(node.input):
            if name in constants:
                own = model.graph.initializer.add()
                own.CopyFrom(constants[name])
                own.name = f"{node.name}/{position}/{name}"
                node.input[position] = own.name


def _is_lost(tensor: onnx.TensorProto) -> bool:
    values = numpy_helper.to_array(tensor)
    finite = values[np.isfinite(values)]
    with np.errstate(over="ignore"):
        rounded = finite.astype(np.float16).astype(np.float32)
    if not np.isfinite(rounded).all():
        return True
    return finite.size <= SCALARS and bool((np.abs(rounded - finite) > ROUNDED_AWAY * np.abs(finite)).any())


def _drop_roundings(model: onnx.ModelProto, in_float: set[str]) -> None:
    """Let what stays in float read what stayed in float, where the converter rounds to fp16 in between."""
    makers = {output: node for node in model.graph.node for output in node.output}
    for node in model.graph.node:
        rounding = makers.get(node.input[0]) if _casts_to(node, FLOAT) else None
        if rounding is not None and _casts_to(rounding, FLOAT16):
            origin = makers.get(rounding.input[0])
            if origin is not None and origin.name in in_float:
                node.input[0] = rounding.input[0]


def _casts_to(node: onnx.NodeProto, kind: int) -> bool:
    return node.op_type == "Cast" and onnx.helper.get_node_attr_value(node, "to") == kind
