"""Flips and rotations."""

from __future__ import annotations

import numpy as np
import pytest

from kdguard.runtime.red_team.views import VIEWS, turn, turn_back

IMAGE = np.arange(2 * 3 * 3, dtype=np.float32).reshape(2, 3, 3)


@pytest.mark.parametrize("view", range(VIEWS))
def test_every_view_is_turned_back(view: int) -> None:
    np.testing.assert_array_equal(turn_back(turn(IMAGE, view), view), IMAGE)


def test_views_differ_and_the_first_is_the_image() -> None:
    views = [turn(IMAGE, view) for view in range(VIEWS)]
    np.testing.assert_array_equal(views[0], IMAGE)
    assert len({(v.shape, v.tobytes()) for v in views}) == VIEWS
