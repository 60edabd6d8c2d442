"""Zoomed windows: how large, from where, and of what."""

from __future__ import annotations

import numpy as np
import pytest

from kdguard.export.image_pairs import ImagePair
from kdguard.runtime.red_team.tile import WINDOW
from kdguard.runtime.red_team.zoom import zoomed_in, zoomed_out
from tests.conftest import photograph


def pair_of(height: int, width: int, scale: int = 1) -> ImagePair:
    degraded = np.random.default_rng(0).random((height, width, 3), dtype=np.float32)
    return ImagePair("p", degraded, degraded.repeat(scale, 0).repeat(scale, 1))


def rng() -> np.random.Generator:
    return np.random.default_rng(0)


@pytest.mark.parametrize(
    ("height", "width", "nearer", "further"),
    [
        (100, 120, (200, 240), (50, 60)),
        # As small as the tile, and a little larger: zoomed out as far as leaves room for it.
        (32, 40, (64, 80), (32, 40)),
        (40, 40, (80, 80), (32, 32)),
        (400, 100, (WINDOW, 200), (200, 50)),
        (700, 800, (WINDOW, WINDOW), (WINDOW // 2, WINDOW // 2)),
    ],
)
def test_windows_hold_a_tile_and_are_no_larger_than_what_is_asked_about(
    height: int, width: int, nearer: tuple[int, int], further: tuple[int, int]
) -> None:
    for zoom, size in ((zoomed_in, nearer), (zoomed_out, further)):
        found = zoom(pair_of(height, width), 32, 1, 2, rng())
        assert {window.degraded.shape for window in found} == {(*size, 3)}
        assert all(window.clean.shape == window.degraded.shape for window in found)


def test_large_images_are_zoomed_at_several_places_and_small_ones_once() -> None:
    for zoom, side in ((zoomed_in, 400), (zoomed_out, 700)):
        several = zoom(pair_of(side, side), 32, 1, 3, rng())
        assert len({window.degraded.tobytes() for window in several}) == 3
        assert len(zoom(pair_of(100, 100), 32, 1, 3, rng())) == 1


def test_zooming_into_a_super_resolution_pair_shows_the_clean_image() -> None:
    clean = photograph(96).astype(np.float32) / 255
    (window,) = zoomed_in(ImagePair("p", clean[::2, ::2].copy(), clean), 32, 2, 3, rng())
    np.testing.assert_array_equal(window.degraded, clean)
    assert window.clean.shape == (192, 192, 3)


def test_zooming_out_leaves_out_what_is_too_fine_to_be_seen() -> None:
    """Lines of single pixels become grey, neither black nor white."""
    lines = (np.arange(80) % 2).astype(np.float32)[:, None, None].repeat(80, 1).repeat(3, 2)
    (window,) = zoomed_out(ImagePair("p", lines, lines), 32, 1, 1, rng())
    np.testing.assert_allclose(window.degraded[8:-8, 8:-8], 0.5, atol=0.1)
