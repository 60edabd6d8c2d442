"""Images seen from nearer and from further away: more to ask a teacher about, without ground truth."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from PIL import Image as PilImage

from kdguard.export.image_pairs import ImagePair
from kdguard.runtime.red_team.tile import WINDOW

ZOOM = 2
"""Factor of zooming in, and of zooming out where a tile still fits into the smaller image."""

Array = NDArray[np.float32]


def zoomed_in(pair: ImagePair, side: int, scale: int, count: int, rng: np.random.Generator) -> list[ImagePair]:
    """Windows of the degraded image, enlarged.

    Of a super-resolution pair windows of the clean image, as they are: what a camera nearer by would have seen.

    Args:
        side: of the tiles to be cut from them.
        scale: of the model.
        count: of windows, at random places; an image that fits into one gives one.
    """
    most = max(WINDOW, side)
    if scale > 1:
        windows = _windows(pair.clean, most, count, rng)
    else:
        windows = [_resized(window, ZOOM) for window in _windows(pair.degraded, -(-most // ZOOM), count, rng)]
    return [_unlabeled(window, f"{pair.name} in", scale) for window in windows]


def zoomed_out(pair: ImagePair, side: int, scale: int, count: int, rng: np.random.Generator) -> list[ImagePair]:
    """Windows of the degraded image, reduced; arguments as for `zoomed_in`."""
    windows = _windows(pair.degraded, max(WINDOW, side), count, rng)
    reduced = [_resized(window, max(1 / ZOOM, side / min(window.shape[:2]))) for window in windows]
    return [_unlabeled(window, f"{pair.name} out", scale) for window in reduced]


def _windows(image: Array, most: int, count: int, rng: np.random.Generator) -> list[Array]:
    """Parts of an image [H, W, C] at random places, of at most `most` pixels a side; one where all of it fits."""
    if max(image.shape[:2]) <= most:
        return [image]
    places = [[int(rng.integers(max(0, length - most) + 1)) for length in image.shape[:2]] for _ in range(count)]
    return [image[top : top + most, left : left + most] for top, left in places]


def _resized(image: Array, factor: float) -> Array:
    """By bicubic interpolation, low-passed where it becomes smaller."""
    height, width = (round(length * factor) for length in image.shape[:2])
    channels = [
        np.asarray(PilImage.fromarray(channel).resize((width, height), PilImage.Resampling.BICUBIC))
        for channel in np.moveaxis(image, -1, 0)
    ]
    return np.clip(np.stack(channels, axis=-1), 0, 1)


def _unlabeled(image: Array, name: str, scale: int) -> ImagePair:
    """A pair whose clean half is zeros; no loss may look at it."""
    height, width, channels = image.shape
    return ImagePair(name, image, np.zeros((height * scale, width * scale, channels), np.float32))
