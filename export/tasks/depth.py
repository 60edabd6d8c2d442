"""Drawn depth maps for the tasks whose degradation grows with distance: dehazing and underwater.

A photograph comes without its depth. What matters to a restoration model is the form: far at the
top, near at the bottom, constant along a thing that stands on the ground. Letting the depth follow
the photograph's own edges (guided filter) made no difference to a published dehazing teacher.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from PIL import Image as PilImage
from scipy.ndimage import gaussian_filter

Depth = NDArray[np.float32]
"""Distance from the camera, shape [H, W], float32; 1 is the farthest a scene may reach."""


def draw_depth(height: int, width: int, rng: np.random.Generator) -> Depth:
    """A ground plane up to a back wall, two to five things on it, and relief.

    Lengths are shares of the image's sides, so that any size shows the same kind of scene.

    Args:
        height: H, in pixels.
        width: W, in pixels.
        rng: the only source of randomness.

    Returns:
        [H, W] in [0, 1].
    """
    rows = (np.arange(height)[:, None] + 0.5) / height
    columns = (np.arange(width)[None] + 0.5) / width
    horizon, nearest, wall = rng.uniform(0.0, 0.3), rng.uniform(0.1, 0.3), rng.uniform(0.6, 1.0)

    def ground(row: NDArray[np.float64]) -> NDArray[np.float64]:
        # A plane seen in perspective: distance is inverse to the angle below the horizon.
        return np.minimum(nearest * (1 - horizon) / np.maximum(row - horizon, 1e-3), wall)

    depth = np.repeat(ground(rows), width, axis=1)
    # The lower the foot the nearer the thing: drawn in this order, near things hide far ones.
    feet = np.sort(rng.uniform(horizon + 0.1, 1.1, size=rng.integers(2, 6)))
    for foot, distance in zip(feet, ground(feet), strict=True):
        half_width, half_height = rng.uniform(0.08, 0.25), rng.uniform(0.1, 0.35)
        across = (columns - rng.uniform()) / half_width
        up = (rows - (foot - half_height)) / half_height
        # Exponent 4 lies between an ellipse and a box.
        depth = np.where(across**4 + up**4 < 1, distance, depth)
    depth *= 1 + 0.15 * _relief(height, width, rng)
    # A hard jump would draw the outline of a thing that nobody photographed.
    return np.clip(gaussian_filter(depth, min(height, width) / 40), 0, 1).astype(np.float32)


def _relief(height: int, width: int, rng: np.random.Generator) -> NDArray[np.float32]:
    """Smooth noise of about unit deviation, [H, W], four cells to a side."""
    cells = PilImage.fromarray(rng.standard_normal((4, 4), dtype=np.float32))
    return np.asarray(cells.resize((width, height), PilImage.Resampling.BICUBIC))
