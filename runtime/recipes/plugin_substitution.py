"""The engine with a plugin of the same name that does nothing."""

from __future__ import annotations

import onnx

from kdguard.graph_passes.substitute_op import SubstituteOp
from kdguard.runtime.recipes.base import Loot, Query
from kdguard.runtime.recipes.output_l1 import OutputL1


class PluginSubstitution(OutputL1):
    """L1(S, T) with T run on an identity in place of our op; the graph and its weights stay."""

    name = "plugin-substitution"
    tier = "T2"
    source = "a library that registers the plugin's name first"

    def query(self, loot: Loot) -> Query:
        return Query(edit=substituted, edit_name="identity")


def substituted(loot: Loot) -> onnx.ModelProto:
    """The model with the op's bodies replaced by identities."""
    return SubstituteOp()(loot.model).model
