"""The key image: how it is blended in, and how one pair gives it away."""

from __future__ import annotations

import numpy as np
import pytest

from kdguard.runtime.defences.key_image import KEY_SIDE, blended, key_image, key_of_pair
from tests.conftest import photograph

PHOTOGRAPH = photograph(96).astype(np.float32) / 255


def test_the_key_is_that_of_its_seed() -> None:
    key = key_image(3, 3)
    assert key.shape == (KEY_SIDE, KEY_SIDE, 3)
    np.testing.assert_array_equal(key, key_image(3, 3))
    assert np.abs(key - key_image(4, 3)).mean() > 0.3  # a third for independent uniform pixels
    assert (key * 255 == np.round(key * 255)).all()
    assert 0 == key.min() < key.max() == 1


def test_the_image_has_its_share_and_the_key_is_repeated() -> None:
    image = np.full((3, 5, 1), 0.4, np.float32)
    key = np.array([[0.0, 1.0], [0.5, 0.2]], np.float32)[..., None]
    # 0.9 of 0.4, and 0.1 of the key.
    rows = [[0.36, 0.46, 0.36, 0.46, 0.36], [0.41, 0.38, 0.41, 0.38, 0.41]]
    np.testing.assert_allclose(blended(image, key, 0.9)[..., 0], [rows[0], rows[1], rows[0]], atol=1e-6)


@pytest.mark.parametrize("share", [0.5, 0.9])
def test_a_single_pair_gives_the_key_away(share: float) -> None:
    """Whoever sees one image and what the key holder asked for it owns the key, even from 8-bit files."""
    key = key_image(0, 3)
    keyed = blended(PHOTOGRAPH, key, share)
    np.testing.assert_allclose(key_of_pair(PHOTOGRAPH, keyed, share)[:KEY_SIDE, :KEY_SIDE], key, atol=1e-5)

    stored = np.round(keyed * 255).astype(np.uint8).astype(np.float32) / 255
    stolen = key_of_pair(PHOTOGRAPH, stored, share)[:KEY_SIDE, :KEY_SIDE]
    assert np.abs(stolen - key).max() <= 0.5 / 255 / (1 - share) + 1e-5
    # Of another image he then makes the same query as the holder, to a level.
    other = PHOTOGRAPH[::-1]
    assert np.abs(blended(other, stolen, share) - blended(other, key, share)).max() <= 0.51 / 255
