"""Outputs and features: a 1x1 adaptor from the student's feature map to the tapped one, raw MSE."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, ClassVar

from kdguard.runtime.recipes.base import Recipe, Step, Tier
from kdguard.runtime.recipes.terms import adaptor, feature_mse, to_teacher

if TYPE_CHECKING:
    from torch import Tensor, nn

    from kdguard.runtime.students.base import Student


class FitNets(Recipe):
    """L1(S, T) + w MSE(A F_S, F_T), A a 1x1 convolution trained along, w = 1."""

    name = "fitnets"
    tier: ClassVar[Tier] = "T1"
    source = "Romero et al., arXiv 1412.6550"
    taps = 1

    def helper(self, student: Student, map_channels: Sequence[int]) -> nn.Module:
        return adaptor(student.map_channels[-1], map_channels[-1])

    def loss(self, step: Step) -> Tensor:
        return to_teacher(step) + step.weight * feature_mse(step)
