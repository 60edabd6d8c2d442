"""Self-ensemble: the mean of the teacher's answers over flips and rotations, which averages noise away."""

from __future__ import annotations

import numpy as np

from kdguard.export.tasks import get_task
from kdguard.runtime.metrics import psnr
from kdguard.runtime.recipes.base import Loot, Query
from kdguard.runtime.recipes.output_l1 import OutputL1
from kdguard.runtime.red_team.tile import Tile
from kdguard.runtime.red_team.views import VIEWS, harmless, turn, turn_back
from kdguard.runtime.shipped import start


class DihedralAverage(OutputL1):
    """L1(S, mean of T over those of the 8 flips and rotations that do not hurt it on validation tiles)."""

    name = "dihedral-average"
    source = "geometric self-ensemble, Lim et al., CVPRW 2017, used on the teacher"
    ground_truth = True

    def query(self, loot: Loot) -> Query:
        return Query(views=harmless_views)


def harmless_views(loot: Loot) -> tuple[int, ...]:
    """Those of the eight views whose answers, turned back, score like the plain ones on the validation tiles."""
    session = start(loot.shipped, loot.card)
    task, scale = get_task(loot.card.task), loot.card.scale

    def score(tile: Tile, view: int) -> float:
        answer = turn_back(session.restore(turn(tile.around, view)), view)
        return psnr(tile.cut(answer, scale), tile.clean, task, scale)

    return harmless(lambda view: float(np.mean([score(tile, view) for tile in loot.validation])), range(VIEWS))
