"""FitNets on the engine with a plugin of the same name that does nothing."""

from __future__ import annotations

import onnx

from kdguard.graph_passes.substitute_op import SubstituteOp
from kdguard.runtime.recipes.base import TRIED_WEIGHTS, Loot, Query
from kdguard.runtime.recipes.fitnets import FitNets


class PluginSubstitution(FitNets):
    """As `fitnets`, features read with an identity in place of our op, outputs as shipped; w by validation.

    The graph and its weights stay; both libraries are run, the thief's for the maps.
    """

    name = "plugin-substitution"
    tier = "T2"
    source = "a library that registers the plugin's name first"
    weights = TRIED_WEIGHTS

    def query(self, loot: Loot) -> Query:
        return Query(self.chosen_taps(loot), substituted, "identity")


def substituted(loot: Loot) -> onnx.ModelProto:
    """The model with the op's bodies replaced by identities."""
    return SubstituteOp()(loot.model).model
