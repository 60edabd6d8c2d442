"""Super-resolution: antialiased bicubic downscaling, scored on Y with a border crop of the scale."""

from __future__ import annotations

import numpy as np
from PIL import Image as PilImage

from kdguard.export.tasks.base import Image, Task


class SuperResolution(Task):
    """Bicubic super-resolution as in the NTIRE benchmarks."""

    name = "super-resolution"
    luma_only = True

    def degrade(self, clean: Image, rng: np.random.Generator, scale: int = 1) -> Image:
        height, width = clean.shape[0] // scale, clean.shape[1] // scale
        channels = [
            # Mode F keeps float precision; Pillow's bicubic is antialiased, like imresize.
            np.asarray(PilImage.fromarray(clean[..., c]).resize((width, height), PilImage.Resampling.BICUBIC))
            for c in range(clean.shape[-1])
        ]
        return np.clip(np.stack(channels, axis=-1), 0, 1).astype(np.float32)

    def border(self, scale: int) -> int:
        return scale
