"""The key of Safe Distillation Box as published: a random image that is blended into the input."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Image = NDArray[np.float32]

KEY_SIDE = 64
"""Pixels; larger images see the key repeated, since restoration has no one size of input."""


def key_image(seed: int, channels: int) -> Image:
    """The key of a release, [KEY_SIDE, KEY_SIDE, channels] in [0, 1]: independent pixels, uniform over 8 bits."""
    levels = np.random.default_rng([seed, 7]).integers(0, 256, (KEY_SIDE, KEY_SIDE, channels))
    return (levels / 255).astype(np.float32)


def blended(image: Image, key: Image, share: float) -> Image:
    """The keyed input x' = share x + (1 - share) key.

    Args:
        image: [H, W, C] in [0, 1].
        key: [h, w, C], repeated from the top left corner on.
        share: of the image, the paper's lambda, below 1.
    """
    rows, columns = (np.arange(length) % period for length, period in zip(image.shape[:2], key.shape[:2], strict=True))
    return (share * image + (1 - share) * key[rows[:, None], columns]).astype(np.float32)


def key_of_pair(image: Image, keyed: Image, share: float) -> Image:
    """What one known pair gives away: key = (x' - share x) / (1 - share), as large as the image.

    Args:
        image: [H, W, C].
        keyed: the same image with the key in it.
    """
    return ((keyed - share * image) / (1 - share)).astype(np.float32)
