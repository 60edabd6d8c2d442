"""FitNets on the file with our nodes deleted."""

from __future__ import annotations

import onnx

from kdguard.graph_passes.strip_nodes import StripNodes
from kdguard.runtime.recipes.base import TRIED_WEIGHTS, Loot, Query
from kdguard.runtime.recipes.fitnets import FitNets


class Strip(FitNets):
    """As `fitnets`, features read from the stripped model, outputs from the shipped one; w by validation."""

    name = "strip"
    tier = "T1s"
    source = "deleting nodes by their domain"
    weights = TRIED_WEIGHTS

    def query(self, loot: Loot) -> Query:
        return Query(self.chosen_taps(loot), stripped, "strip")


def stripped(loot: Loot) -> onnx.ModelProto:
    """The model without our nodes, weights as shipped."""
    return StripNodes()(loot.model).model
