"""Calibration pairs in memory: pieces of a real photograph, with noise."""

from __future__ import annotations

import numpy as np

from kdguard.export.image_pairs import ImagePair
from tests.conftest import photograph


def noisy_pairs(count: int, side: int = 48, seed: int = 0) -> list[ImagePair]:
    """Pairs p0, p1, ... whose degraded image is the clean one with noise."""
    rng, pairs = np.random.default_rng(seed), []
    for index in range(count):
        clean = photograph(side, offset=40 * index).astype(np.float32) / 255
        noisy = np.clip(clean + rng.normal(0, 0.05, clean.shape), 0, 1).astype(np.float32)
        pairs.append(ImagePair(f"p{index}", noisy, clean))
    return pairs
