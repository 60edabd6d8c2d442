"""Control: the student that never saw a teacher."""

from __future__ import annotations

from typing import TYPE_CHECKING

from kdguard.runtime.recipes.base import Recipe, Step
from kdguard.runtime.recipes.terms import to_truth

if TYPE_CHECKING:
    from torch import Tensor


class Scratch(Recipe):
    """L1(S, GT)."""

    name = "scratch"
    tier = "control"
    source = "ground truth only"
    sources = ("none",)
    ground_truth = True

    def loss(self, step: Step) -> Tensor:
        return to_truth(step)
