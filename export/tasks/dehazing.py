"""Dehazing: the atmospheric scattering model over a drawn depth map, scored on RGB."""

from __future__ import annotations

import numpy as np

from kdguard.export.tasks.base import Image, Task
from kdguard.export.tasks.depth import draw_depth


class Dehazing(Task):
    """Homogeneous haze: I = J t + A (1 - t), t = exp(-beta d).

    The model of Narasimhan and Nayar (IJCV 2002). Airlight A in [0.7, 1.0], grey, and scattering
    coefficient beta in [0.6, 1.8] are drawn per image, as for the indoor training set (ITS) of RESIDE
    (Li et al., TIP 2019, arXiv 1712.04143). d is a share of the farthest distance: beta has no unit.
    """

    name = "dehazing"

    def degrade(self, clean: Image, rng: np.random.Generator, scale: int = 1) -> Image:
        airlight, scattering = rng.uniform(0.7, 1.0), rng.uniform(0.6, 1.8)
        height, width = clean.shape[:2]
        depth = draw_depth(height, width, rng)[..., None]
        transmission = np.exp(-scattering * depth)
        return np.clip(clean * transmission + airlight * (1 - transmission), 0, 1).astype(np.float32)
