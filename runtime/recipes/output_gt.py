"""Ground truth and outputs: the ordinary way to distill a restoration model."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from kdguard.runtime.recipes.base import Recipe, Step, Tier
from kdguard.runtime.recipes.terms import to_teacher, to_truth

if TYPE_CHECKING:
    from torch import Tensor

TEACHER_SHARE = 0.5


class OutputGt(Recipe):
    """(1 - a) L1(S, GT) + a L1(S, T), a = 1/2."""

    name = "output+gt"
    tier: ClassVar[Tier] = "T0"
    source = "Hinton et al., arXiv 1503.02531, with L1 as in restoration"
    ground_truth = True

    def loss(self, step: Step) -> Tensor:
        return (1 - TEACHER_SHARE) * to_truth(step) + TEACHER_SHARE * to_teacher(step)
