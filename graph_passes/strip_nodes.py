"""What an attacker does first: delete every node of ours. Used to measure what that costs him."""

from __future__ import annotations

import onnx

from kdguard.graph_passes.layers import NAME_PREFIX, keep_only, rename_tensors
from kdguard.graph_passes.op.attributes import DOMAIN, PERTURB, RESTORE
from kdguard.graph_passes.pass_base import GraphPass, PassResult
from kdguard.graph_passes.remove_key_gate import RemoveKeyGate


class StripNodes(GraphPass):
    """Remove every kdguard node, function and constant; the graph reads as if they had never been there.

    1. `SvdPerturb` becomes nothing: its clean input takes the layer's public name back.
    2. `SvdRestore` becomes nothing: its readers read the layer.
    3. Weights stay as they are: where a compensated layer's readers were refitted, they now see maps
       that they were not fitted to.
    4. A key gate goes first, with its input and its hints.
    """

    def call(self, model: onnx.ModelProto) -> PassResult:
        gate = RemoveKeyGate().call(model)
        model = gate.model
        ours = [node for node in model.graph.node if node.domain == DOMAIN]
        if not ours:
            return gate
        renamed = {node.input[0]: node.output[0] for node in ours if node.op_type == PERTURB}
        renamed |= {node.output[0]: node.input[0] for node in ours if node.op_type == RESTORE}
        result = onnx.ModelProto()
        result.CopyFrom(model)
        kept = [node for node in result.graph.node if node.domain != DOMAIN]
        rename_tensors(kept, renamed)
        del result.graph.node[:]
        result.graph.node.extend(kept)
        keep_only(result.graph.initializer, lambda tensor: not tensor.name.startswith(NAME_PREFIX))
        keep_only(result.graph.value_info, lambda value: not value.name.startswith(NAME_PREFIX))
        keep_only(result.functions, lambda function: function.domain != DOMAIN)
        keep_only(result.opset_import, lambda imported: imported.domain != DOMAIN)
        return PassResult(result, modified=True)
