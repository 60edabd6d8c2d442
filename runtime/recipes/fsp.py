"""Flow of solution procedure: how one layer's channels go together with a later one's."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from kdguard.runtime.recipes.base import Loot, NothingToWorkWithError, Query, Recipe, Step
from kdguard.runtime.recipes.terms import adaptor, resized_like, to_teacher

if TYPE_CHECKING:
    from torch import Tensor, nn

    from kdguard.runtime.students.base import Student


class Fsp(Recipe):
    """L1(S, T) + w MSE(G_S, G_T), G = F_1 F_2^T / P of two layers with P positions.

    The student's shallow and deep maps go through 1x1 adaptors to the teacher's channels, trained along.
    """

    name = "fsp"
    tier = "T1"
    source = "Yim et al., CVPR 2017"
    taps = 2

    def query(self, loot: Loot) -> Query:
        taps = self.chosen_taps(loot)
        if len(taps) < self.taps:
            raise NothingToWorkWithError(
                f"fsp compares two layers, and no map of the size of {loot.tap!r} comes before it"
            )
        return Query(taps=taps)

    def helper(self, student: Student, map_channels: Sequence[int]) -> nn.Module:
        from torch import nn

        pairs = zip((student.map_channels[0], student.map_channels[-1]), map_channels, strict=True)
        return nn.ModuleList(adaptor(own, wanted) for own, wanted in pairs)

    def loss(self, step: Step) -> Tensor:
        from torch.nn import ModuleList
        from torch.nn.functional import mse_loss

        assert isinstance(step.helper, ModuleList)
        own = (step.restoration.maps[0], step.restoration.maps[-1])
        wanted = step.batch.teacher_maps
        found = [resized_like(a(maps), wanted[-1]) for a, maps in zip(step.helper, own, strict=True)]
        return to_teacher(step) + step.weight * mse_loss(_flow(*found), _flow(*wanted))


def _flow(first: Tensor, second: Tensor) -> Tensor:
    """[N, F_1, F_2]."""
    return first.flatten(2) @ second.flatten(2).transpose(1, 2) / first[0, 0].numel()
