"""Feature affinity: which positions of the map resemble which, whatever their channels mean."""

from __future__ import annotations

from typing import TYPE_CHECKING

from kdguard.runtime.recipes.base import Recipe, Step
from kdguard.runtime.recipes.terms import l1, to_teacher, to_truth

if TYPE_CHECKING:
    from torch import Tensor

MAX_SIDE = 24
"""Maps are pooled to this size: affinity matrices grow with the fourth power of the side."""


class Fakd(Recipe):
    """L1(S, GT) + L1(S, T) + w L1(A_S, A_T), A the cosines between the positions of a map pooled to 24x24 at most."""

    name = "fakd"
    tier = "T1"
    source = "FAKD, He et al., ICIP 2020"
    taps = 1
    ground_truth = True

    def loss(self, step: Step) -> Tensor:
        import torch

        wanted = step.batch.teacher_maps[-1]
        side = min(MAX_SIDE, *wanted.shape[-2:])
        pairs = zip(_directions(step.restoration.maps[-1], side), _directions(wanted, side), strict=True)
        # Image by image, since the matrices of a whole batch fit into no cache.
        term = torch.stack([l1(student.T @ student, teacher.T @ teacher) for student, teacher in pairs]).mean()
        return to_truth(step) + to_teacher(step) + step.weight * term


def _directions(maps: Tensor, side: int) -> Tensor:
    """[N, F, side^2] unit vectors at the positions of maps [N, F, H, W] pooled to `side`."""
    from torch.nn.functional import adaptive_avg_pool2d, normalize

    return normalize(adaptive_avg_pool2d(maps, side).flatten(2), dim=1)
