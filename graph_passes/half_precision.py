"""The model in 16 bits, for engines: weights and maps in fp16, the op in fp32 inside as ever."""

from __future__ import annotations

import onnx
import onnx_ir
from onnx_ir.passes import InPlacePass as ModelPass
from onnx_ir.passes.common import (
    InlinePass,
    LiftConstantsToInitializersPass,
    NameFixPass,
    TopologicalSortPass,
)

from kdguard.export.large_models import is_large
from kdguard.export.onnx_files import default_opset
from kdguard.graph_passes.insert_key_gate import InsertKeyGate
from kdguard.graph_passes.key_gate import read_gate
from kdguard.graph_passes.op.attributes import DOMAIN
from kdguard.graph_passes.op.functions import op_functions
from kdguard.graph_passes.pass_base import GraphPass, PassResult, PreconditionError
from kdguard.graph_passes.remove_key_gate import RemoveKeyGate

FLOAT16, BFLOAT16 = onnx.TensorProto.FLOAT16, onnx.TensorProto.BFLOAT16
PLACEHOLDER = "kdguard_placeholder_"
IN_FLOAT = ("DFT",)
"""Sums of a whole row, squared by what follows, leave the range of fp16."""


class HalfPrecision(GraphPass):
    """Float weights and maps become fp16; inputs and outputs stay float.

    1. onnxruntime's converter does it, and leaves operators that lack 16 bits, or need more, in float.
    2. It knows nothing of our nodes, so identities stand in for them meanwhile. They come back with fp16 maps and the
       functions that undo themselves exactly in 16 bits; what one node hands to another stays float.
    3. Somebody else's functions are written out first.
    4. A key gate steps aside meanwhile and stays float: sums of its hash leave the range of fp16.
    """

    def requires(self, model: onnx.ModelProto) -> None:
        if is_large(model):
            raise PreconditionError("fp16: the model keeps its weights in data files; convert it before hardening")
        if any(tensor.data_type == BFLOAT16 for tensor in model.graph.initializer):
            raise PreconditionError("fp16: the model's weights are bfloat16, whose range fp16 does not hold")

    def call(self, model: onnx.ModelProto) -> PassResult:
        from onnxruntime.transformers.float16 import DEFAULT_OP_BLOCK_LIST, convert_float_to_float16

        if any(tensor.data_type == FLOAT16 for tensor in model.graph.initializer):
            return PassResult(model, modified=False)
        if gate := read_gate(model):
            without = self.call(RemoveKeyGate()(model).model)
            again = InsertKeyGate(gate.digests, gate.hints, required=gate.required, seed=gate.seed)
            return again(without.model) if without.modified else PassResult(model, modified=False)
        ours = {function.name for function in model.functions if function.domain == DOMAIN}
        plain = onnx.ModelProto()
        plain.CopyFrom(model)
        kept = _replaced(plain)
        # The converter overlooks functions, and constants that are no tensors.
        lift = LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=0)
        plain = _by(plain, InlinePass(lambda function: function.domain != DOMAIN), NameFixPass(), lift)
        del plain.functions[:]
        blocked = [*DEFAULT_OP_BLOCK_LIST, *IN_FLOAT]
        half = convert_float_to_float16(plain, keep_io_types=True, op_block_list=blocked)
        half = _by(half, TopologicalSortPass())  # the converter puts its casts at the end
        for node in half.graph.node:
            if original := kept.get(node.name):
                original.input[0], original.output[0] = node.input[0], node.output[0]
                node.CopyFrom(original)
        del half.graph.value_info[:]  # says float where bodies of If and Loop became fp16
        if ours:
            half.functions.extend(op_functions(default_opset(half), exact_change=True))
        return PassResult(half, modified=True)


def _by(model: onnx.ModelProto, *passes: ModelPass) -> onnx.ModelProto:
    graph = onnx_ir.from_proto(model)
    for each in passes:
        each(graph)
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
