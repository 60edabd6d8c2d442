"""Underwater restoration: attenuation and veiling light by water type, scored on RGB."""

from __future__ import annotations

import numpy as np

from kdguard.export.tasks.base import Image, Task
from kdguard.export.tasks.depth import draw_depth

WATER_TYPES = {
    "I": (0.85, 0.961, 0.982),
    "IA": (0.84, 0.955, 0.975),
    "IB": (0.83, 0.95, 0.968),
    "II": (0.80, 0.925, 0.94),
    "III": (0.75, 0.885, 0.89),
    "1": (0.75, 0.885, 0.875),
    "3": (0.71, 0.82, 0.80),
}
"""Share of red, green and blue light left after a metre of water, by Jerlov type: I to III are open
ocean, 1 and 3 coastal. From the code of UWCNN, whose types 5, 7 and 9 are left out: at its depths they
leave brown, nearly black images, unlike the photographs that restoration models are published on."""


class Underwater(Task):
    """Light lost on the way down and on the way to the camera: I = A J t + A (1 - t).

    The synthesis of UWCNN (Li et al., Pattern Recognition 2020, arXiv 1807.03528): with N the share
    left per metre, A = 1.5 N^D at a depth D of 3 to 5 m below the surface, t = N^d, d metres from the
    camera; type, D and the reach are drawn per image. UWCNN's farthest points lie 0.5 to 15 m away,
    ours 0.5 to 5 m, which is what the contrast of EUVP's photographs (Islam et al., RA-L 2020) asks for.
    """

    name = "underwater"

    def degrade(self, clean: Image, rng: np.random.Generator, scale: int = 1) -> Image:
        height, width, channels = clean.shape
        left = np.array(list(WATER_TYPES.values())[rng.integers(len(WATER_TYPES))])
        if channels == 1:
            left = left[1:2]  # luma is mostly green
        light = 1.5 * left ** rng.uniform(3, 5)
        metres = rng.uniform(0.5, 5) * draw_depth(height, width, rng)[..., None]
        transmission = left**metres
        return np.clip(light * (clean * transmission + 1 - transmission), 0, 1).astype(np.float32)
