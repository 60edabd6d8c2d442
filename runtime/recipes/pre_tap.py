"""FitNets on what goes into our nodes instead of what comes out."""

from __future__ import annotations

import onnx

from kdguard.graph_passes.inventory import hardened_layers
from kdguard.runtime.recipes.base import TRIED_WEIGHTS, Loot, Query
from kdguard.runtime.recipes.fitnets import FitNets


class PreTap(FitNets):
    """As `fitnets`, reading the tensor that our node amplifies (clean model: the layer itself); w by validation."""

    name = "pre-tap"
    tier = "T1s"
    source = "reading the graph"
    weights = TRIED_WEIGHTS

    def query(self, loot: Loot) -> Query:
        assert loot.tap is not None
        return Query(taps=(clean_side(loot.model, loot.tap),))


def clean_side(model: onnx.ModelProto, tap: str) -> str:
    """The tensor that our node makes `tap` of, or `tap` where no node of ours does."""
    nodes = {name for layer in hardened_layers(model) if layer.layer == tap for name in layer.nodes}
    for node in model.graph.node:
        if node.name in nodes and tap in node.output:
            return str(node.input[0])
    return tap
