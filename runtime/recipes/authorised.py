"""Knowledge augmentation: what a key holder, who sees the clean teacher, may make of it beyond its answers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from kdguard.runtime.recipes.base import Batch, Loot, Maps, Query, Recipe, Source, Step, Tier
from kdguard.runtime.recipes.dihedral_average import harmless_views
from kdguard.runtime.recipes.terms import adaptor, feature_mse, l1

if TYPE_CHECKING:
    from torch import Tensor, nn

    from kdguard.runtime.students.base import Student

HINTS = 8
"""Maps that are left of the tapped one."""

HALF_TRUSTED = 0.02
"""Spread of the views' answers, in units of the value range, at which answer and truth count alike."""


class Authorised(Recipe):
    """L1(S, E) + w MSE(A F_S, V), E the mean of T over harmless views led to GT, V the strongest directions of F_T.

    Led to the truth means: per crop and channel the answer gets the mean of the truth, which mends exposure and colour
    casts and leaves the teacher its detail; then each pixel moves towards the truth the further the views' answers
    lie apart. Half of the first term is taken of the mirrored crop. w is chosen by validation.
    """

    name = "authorised"
    tier: ClassVar[Tier] = "T3"
    source = "knowledge augmentation after Safe Distillation Box, arXiv 2112.03695"
    sources: ClassVar[tuple[Source, ...]] = ("clean",)
    taps = 1
    ground_truth = True
    weights = (0.02, 0.1)

    def query(self, loot: Loot) -> Query:
        return Query(self.chosen_taps(loot), rework=strongest_directions, views=harmless_views, spread=True)

    def helper(self, student: Student, map_channels: Sequence[int]) -> nn.Module:
        return adaptor(student.map_channels[-1], map_channels[-1])

    def loss(self, step: Step) -> Tensor:
        target = led_to_truth(step.batch)
        mirrored = step.student.restore(step.batch.degraded.flip(-1)).output.flip(-1)
        to_target = (l1(step.restoration.output, target) + l1(mirrored, target)) / 2
        return to_target + step.weight * feature_mse(step)


def led_to_truth(batch: Batch) -> Tensor:
    """What to imitate, [N, C, H * scale, W * scale]; all tiles are the owner's, so each has a truth."""
    assert batch.teacher_output is not None
    assert batch.teacher_spread is not None
    missing = (batch.clean - batch.teacher_output).mean((2, 3), keepdim=True)
    answer = batch.teacher_output + missing
    doubt = batch.teacher_spread / (batch.teacher_spread + HALF_TRUSTED)
    return answer + doubt * (batch.clean - answer)


def strongest_directions(maps: Sequence[Maps]) -> Maps:
    """The map [M, F, H, W] on its first principal directions, [M, k, H, W], the first with unit variance.

    Hints so small cost little to keep and to send, and what is left out is mostly noise to a small student.
    """
    values = np.moveaxis(np.asarray(maps[-1]), 1, 0)
    centred = values - values.mean((1, 2, 3), keepdims=True)
    flat = centred.reshape(len(centred), -1)
    variances, directions = np.linalg.eigh(flat @ flat.T / flat.shape[1])
    strongest = directions[:, ::-1][:, :HINTS] / np.sqrt(max(variances[-1], np.finfo(np.float32).tiny))
    return np.ascontiguousarray(np.moveaxis(np.tensordot(strongest.T, centred, 1), 0, 1), dtype=np.float32)
