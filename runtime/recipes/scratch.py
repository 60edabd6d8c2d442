"""Control: the student that never saw a teacher."""

from __future__ import annotations

from typing import TYPE_CHECKING

from kdguard.runtime.recipes.base import Batch, Recipe

if TYPE_CHECKING:
    from torch import Tensor, nn


class Scratch(Recipe):
    """L1(S, GT)."""

    name = "scratch"
    tier = "control"
    source = "ground truth only"
    queries = False
    ground_truth = True

    def loss(self, output: Tensor, features: Tensor, batch: Batch, adaptor: nn.Module | None) -> Tensor:
        return (output - batch.clean).abs().mean()
