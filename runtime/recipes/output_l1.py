"""Output distillation without ground truth: imitate what the teacher answers."""

from __future__ import annotations

from typing import TYPE_CHECKING

from kdguard.runtime.recipes.base import Batch, Recipe

if TYPE_CHECKING:
    from torch import Tensor, nn


class OutputL1(Recipe):
    """L1(S, T)."""

    name = "output-l1"
    tier = "T0"
    source = "Hinton et al., arXiv 1503.02531, as used for restoration"

    def loss(self, output: Tensor, features: Tensor, batch: Batch, adaptor: nn.Module | None) -> Tensor:
        assert batch.teacher_output is not None
        return (output - batch.teacher_output).abs().mean()
