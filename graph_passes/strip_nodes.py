"""What an attacker does first: delete every node of ours. Used to measure what that costs him."""

from __future__ import annotations

import onnx

from kdguard.graph_passes.layers import NAME_PREFIX, rename_tensors
from kdguard.graph_passes.op.attributes import DOMAIN, PERTURB, RESTORE
from kdguard.graph_passes.pass_base import GraphPass, PassResult


class StripNodes(GraphPass):
    """Remove every kdguard node, function and constant; the graph reads as if they had never been there.

    1. `SvdPerturb` becomes nothing: its clean input takes the layer's public name back.
    2. `SvdRestore` becomes nothing: its readers read the layer.
    3. Weights stay as they are: where a compensated layer's readers were refitted, they now see maps
       that they were not fitted to.
    """

    def call(self, model: onnx.ModelProto) -> PassResult:
        ours = [node for node in model.graph.node if node.domain == DOMAIN]
        if not ours:
            return PassResult(model, modified=False)
        renamed = {node.input[0]: node.output[0] for node in ours if node.op_type == PERTURB}
        renamed |= {node.output[0]: node.input[0] for node in ours if node.op_type == RESTORE}
        result = onnx.ModelProto()
        result.CopyFrom(model)
        kept = [node for node in result.graph.node if node.domain != DOMAIN]
        rename_tensors(kept, renamed)
        del result.graph.node[:]
        result.graph.node.extend(kept)
        _keep(result.graph.initializer, lambda tensor: not tensor.name.startswith(NAME_PREFIX))
        _keep(result.graph.value_info, lambda value: not value.name.startswith(NAME_PREFIX))
        _keep(result.functions, lambda function: function.domain != DOMAIN)
        _keep(result.opset_import, lambda imported: imported.domain != DOMAIN)
        return PassResult(result, modified=True)


def _keep(entries, wanted) -> None:  # type: ignore[no-untyped-def]  # protobuf's containers have no common type
    kept = [entry for entry in entries if wanted(entry)]
    del entries[:]
    entries.extend(kept)
