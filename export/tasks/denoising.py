"""Denoising: additive white Gaussian noise, sigma 25/255, scored on all channels."""

from __future__ import annotations

import numpy as np

from kdguard.export.tasks.base import Image, Task


class Denoising(Task):
    """AWGN denoising as in DnCNN (Zhang et al., TIP 2017); the noisy image is not clipped."""

    name = "denoising"
    sigma = 25 / 255

    def degrade(self, clean: Image, rng: np.random.Generator, scale: int = 1) -> Image:
        noise = rng.standard_normal(clean.shape, dtype=np.float32)
        return (clean + np.float32(self.sigma) * noise).astype(np.float32)
