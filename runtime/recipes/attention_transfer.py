"""Attention transfer: where the maps are strong, whatever their channels mean."""

from __future__ import annotations

from typing import TYPE_CHECKING

from kdguard.runtime.recipes.base import Recipe, Step
from kdguard.runtime.recipes.terms import resized_like, to_teacher

if TYPE_CHECKING:
    from torch import Tensor


class AttentionTransfer(Recipe):
    """L1(S, T) + w mean_n ||Q_S - Q_T||^2, Q the sum of squares over channels, of unit length per image."""

    name = "attention-transfer"
    tier = "T1"
    source = "Zagoruyko and Komodakis, arXiv 1612.03928"
    taps = 1

    def loss(self, step: Step) -> Tensor:
        wanted = _attention(step.batch.teacher_maps[-1])
        found = _attention(resized_like(step.restoration.maps[-1], step.batch.teacher_maps[-1]))
        return to_teacher(step) + step.weight * (found - wanted).square().sum(1).mean()


def _attention(maps: Tensor) -> Tensor:
    """[N, P] of unit length."""
    from torch.nn.functional import normalize

    return normalize(maps.square().sum(1).flatten(1))
