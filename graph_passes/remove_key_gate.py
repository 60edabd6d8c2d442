"""Taking the key gate out: what its owner does before gating anew, and whoever has the file may do as well."""

from __future__ import annotations

import onnx

from kdguard.graph_passes.insert_svd_perturb import STRENGTH
from kdguard.graph_passes.insert_view_ensemble import without_ensemble
from kdguard.graph_passes.key_gate.names import (
    GATE_DOMAIN,
    GATE_PREFIX,
    HINT_PREFIX,
    KEY_INPUT,
    METADATA_KEY,
    STRENGTH_OUT,
)
from kdguard.graph_passes.layers import count_consumers, keep_only, rename_tensors
from kdguard.graph_passes.pass_base import GraphPass, PassResult


class RemoveKeyGate(GraphPass):
    """Leave the hardened model as it was before it was gated.

    1. Nodes, functions, constants, the input and the hint outputs of the gate go.
    2. What the gate drove reads the constant strength again.
    """

    def call(self, model: onnx.ModelProto) -> PassResult:
        if not any(node.domain == GATE_DOMAIN for node in model.graph.node):
            return PassResult(model, modified=False)
        result = onnx.ModelProto()
        result.CopyFrom(without_ensemble(model))
        graph = result.graph
        keep_only(graph.node, lambda node: node.domain != GATE_DOMAIN)
        rename_tensors(graph.node, {STRENGTH_OUT: STRENGTH})
        gone = {KEY_INPUT} if count_consumers(graph.node)[STRENGTH] else {KEY_INPUT, STRENGTH}
        keep_only(graph.initializer, lambda t: t.name not in gone and not t.name.startswith(GATE_PREFIX))
        keep_only(graph.input, lambda value: value.name != KEY_INPUT)
        keep_only(graph.output, lambda value: not value.name.startswith(HINT_PREFIX))
        keep_only(graph.value_info, lambda v: v.name not in gone and not v.name.startswith((GATE_PREFIX, HINT_PREFIX)))
        keep_only(result.functions, lambda function: function.domain != GATE_DOMAIN)
        keep_only(result.opset_import, lambda imported: imported.domain != GATE_DOMAIN)
        keep_only(result.metadata_props, lambda entry: entry.key != METADATA_KEY)
        return PassResult(result, modified=True)
