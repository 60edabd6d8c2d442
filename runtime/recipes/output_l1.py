"""Output distillation without ground truth: imitate what the teacher answers."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from kdguard.runtime.recipes.base import Recipe, Step, Tier
from kdguard.runtime.recipes.terms import to_teacher

if TYPE_CHECKING:
    from torch import Tensor


class OutputL1(Recipe):
    """L1(S, T)."""

    name = "output-l1"
    tier: ClassVar[Tier] = "T0"
    source = "Hinton et al., arXiv 1503.02531, as used for restoration"

    def loss(self, step: Step) -> Tensor:
        return to_teacher(step)
