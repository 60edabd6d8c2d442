"""Where a tile lies in what the teacher is asked about."""

from __future__ import annotations

import numpy as np
import pytest

from kdguard.runtime.red_team.pieces import Scissors
from kdguard.runtime.red_team.tile import WINDOW, Tile
from tests.runtime.red_team.test_pieces import card_of, pairs_of


@pytest.mark.parametrize("side", [70, 647, 653, 1300])
def test_tiles_lie_in_their_windows(side: int) -> None:
    pieces = Scissors(pairs_of(side, side), card_of(size_multiple=4), 30, 64, seed=0).own()
    for tile in (*pieces.train, *pieces.validation):
        np.testing.assert_array_equal(tile.cut(tile.around), tile.degraded)
        assert max(tile.around.shape[:2]) == min(side, WINDOW) or side > WINDOW >= max(tile.around.shape[:2])


def test_tiles_of_one_image_share_what_is_asked_about() -> None:
    own = Scissors(pairs_of(90, 90, 90), card_of(), 10, 24, seed=0).own()
    assert len({id(tile.around) for tile in own.train}) == 2


def test_a_model_of_one_size_is_asked_about_the_tile() -> None:
    own = Scissors(pairs_of(90, 90), card_of(fixed_size=(40, 40)), 3, 96, seed=0).own()
    assert {tile.around.shape for tile in own.train} == {(40, 40, 3)}


def test_outputs_are_cut_by_the_scale_and_maps_by_their_own_size() -> None:
    image = np.zeros((48, 64, 3), np.float32)
    tile = Tile("t", image[16:32, 8:40], image[16:32, 8:40], image, top=16, left=8)
    rows, columns = np.mgrid[:96, :128].astype(np.float32)
    assert tile.cut(np.stack([rows, columns], -1), 2)[[0, -1], [0, -1]].tolist() == [[32, 16], [63, 79]]
    halved = np.stack([rows, columns])[:, :24, :32]
    assert tile.cut_map(halved, 48, 64)[:, [0, -1], [0, -1]].tolist() == [[8, 15], [4, 19]]
    # Padding counts: a map of a 64 x 64 input, of which the image fills 48 rows.
    assert tile.cut_map(halved[:, :16, :16], 64, 64)[:, [0, -1], [0, -1]].tolist() == [[4, 7], [2, 9]]
    pooled = np.ones((5, 1, 1), np.float32)
    assert tile.cut_map(pooled, 48, 64).shape == (5, 1, 1)
