"""Deraining: additive streaks of one direction per image, scored on RGB."""

from __future__ import annotations

import numpy as np
from scipy.ndimage import gaussian_filter
from scipy.signal import fftconvolve

from kdguard.export.tasks.base import Image, Task


def _streak_kernel(length: float, angle: float) -> np.ndarray:
    """A normalised line of `length` pixels at `angle` radians from vertical, anti-aliased."""
    radius = int(np.ceil(length / 2)) + 1
    y, x = np.mgrid[-radius : radius + 1, -radius : radius + 1].astype(np.float32)
    along = y * np.cos(angle) + x * np.sin(angle)
    across = x * np.cos(angle) - y * np.sin(angle)
    kernel = np.clip(1 - np.abs(across), 0, 1) * np.clip(length / 2 + 0.5 - np.abs(along), 0, 1)
    return (kernel / kernel.max()).astype(np.float32)


class Deraining(Task):
    """Rain as bright streaks added to the scene: O = clip(B + R).

    The additive composition of Fu et al. (CVPR 2017) and Yang et al. (CVPR 2017); angle within
    35 degrees of vertical, 9 to 25 px long, 0.2 to 0.8 % of the pixels seeded, drawn per image.
    """

    name = "deraining"

    def degrade(self, clean: Image, rng: np.random.Generator, scale: int = 1) -> Image:
        height, width = clean.shape[:2]
        angle = np.deg2rad(rng.uniform(-35, 35))
        length = rng.uniform(9, 25)
        density = rng.uniform(0.002, 0.008)
        # Drops outside the frame throw streaks into it: draw on a larger canvas, crop after.
        margin = 16
        shape = (height + 2 * margin, width + 2 * margin)
        seeds = (rng.random(shape) < density) * rng.uniform(0.25, 0.75, shape)
        streaks = fftconvolve(seeds.astype(np.float32), _streak_kernel(length, angle), mode="same")
        streaks = gaussian_filter(streaks, rng.uniform(0.0, 0.6))
        rain = np.clip(streaks[margin:-margin, margin:-margin, None], 0, 0.8)
        return np.clip(clean + rain, 0, 1).astype(np.float32)
