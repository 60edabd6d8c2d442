"""Low-light enhancement: underexposure and the noise of few photons, scored on RGB."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from kdguard.export.tasks.base import Image, Task


class LowLight(Task):
    """Darkening I = beta (alpha J)^gamma, then Poissonian-Gaussian noise.

    The darkening and its ranges are those of Lv et al. (IJCV 2021, arXiv 1908.00682): alpha in
    [0.9, 1], beta in [0.5, 1], gamma in [1.5, 5], drawn per image. The noise model is that of Foi et al.
    (TIP 2008), on linear light, where a sensor counts: a pixel of value 1 collects 5,000 to 50,000
    electrons, read noise is 1 to 4 electrons. These two ranges are ours: dim light on small sensors.
    """

    name = "low-light"
    gamma = (1.5, 5.0)
    full_well = (5e3, 5e4)
    read_noise = (1.0, 4.0)

    def degrade(self, clean: Image, rng: np.random.Generator, scale: int = 1) -> Image:
        alpha, beta, gamma = rng.uniform(0.9, 1.0), rng.uniform(0.5, 1.0), rng.uniform(*self.gamma)
        dark = beta * (alpha * clean.astype(np.float64)) ** gamma
        # Uniform in the logarithm: sensors differ by factors.
        full_well = np.exp(rng.uniform(*np.log(self.full_well)))
        electrons = rng.poisson(srgb_to_linear(dark) * full_well).astype(np.float64)
        electrons += rng.uniform(*self.read_noise) * rng.standard_normal(dark.shape)
        return linear_to_srgb(np.clip(electrons / full_well, 0, 1)).astype(np.float32)


def srgb_to_linear(srgb: NDArray[np.float64]) -> NDArray[np.float64]:
    """Light of a pixel value (IEC 61966-2-1), any shape, both in [0, 1]."""
    return np.where(srgb <= 0.04045, srgb / 12.92, ((srgb + 0.055) / 1.055) ** 2.4)


def linear_to_srgb(linear: NDArray[np.float64]) -> NDArray[np.float64]:
    """The inverse of `srgb_to_linear`."""
    return np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055)
