"""FitNets on the stripped file, after undoing what compensation did to the weights."""

from __future__ import annotations

import onnx

from kdguard.graph_passes.inventory import hardened_layers
from kdguard.runtime.recipes.base import TRIED_WEIGHTS, Loot, Query
from kdguard.runtime.recipes.fitnets import FitNets
from kdguard.runtime.recipes.strip import stripped
from kdguard.runtime.strip import REFIT_IMAGES, refit_stripped


class StripRefit(FitNets):
    """As `strip`, with the readers of in-path layers refitted by ridge regression on a few unlabeled images."""

    name = "strip+refit"
    tier = "T1s"
    source = "deleting nodes, then least squares on the outputs of the readers"
    weights = TRIED_WEIGHTS

    def query(self, loot: Loot) -> Query:
        return Query(self.chosen_taps(loot), refitted, "strip+refit")


def refitted(loot: Loot) -> onnx.ModelProto:
    """The stripped model with its readers refitted; the stripped model where every layer is paired."""
    in_path = {layer.layer: layer.op for layer in hardened_layers(loot.model) if layer.placement == "in-path"}
    return refit_stripped(stripped(loot), loot.card, in_path, loot.images[:REFIT_IMAGES])
