"""What an attacker with an engine does: register an op of our name that hands its input through."""

from __future__ import annotations

import onnx

from kdguard.graph_passes.layers import NAME_PREFIX
from kdguard.graph_passes.op.attributes import DOMAIN, PERTURB, RESTORE
from kdguard.graph_passes.pass_base import GraphPass, PassResult


class SubstituteOp(GraphPass):
    """Replace the bodies of `SvdPerturb` and `SvdRestore` by identities; nodes and weights stay as they are."""

    def call(self, model: onnx.ModelProto) -> PassResult:
        result = onnx.ModelProto()
        result.CopyFrom(model)
        ours = [f for f in result.functions if f.domain == DOMAIN and f.name in (PERTURB, RESTORE)]
        for function in ours:
            del function.node[:]
            function.node.extend(
                onnx.helper.make_node("Identity", [function.input[0]], [output]) for output in function.output
            )
        # The further outputs of `SvdPerturb` now have another shape, and nobody reads them.
        kept = [value for value in result.graph.value_info if not value.name.startswith(NAME_PREFIX)]
        del result.graph.value_info[:]
        result.graph.value_info.extend(kept)
        return PassResult(result, modified=True) if ours else PassResult(model, modified=False)
