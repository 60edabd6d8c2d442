"""The quickstart's images: photographs that ship inside scikit-image, cut into disjoint regions.

Every photograph gives its left 60 % to training, the next 15 % to calibration and the rest to
testing, with a gap of `GAP` columns between the regions, so that no pixel that a teacher or a
student was trained on is ever scored. Grey photographs are repeated to three channels.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image as PilImage
from skimage import data

from kdguard.export.tasks import get_task

PHOTOGRAPHS = ("astronaut", "camera", "chelsea", "coffee", "coins", "gravel", "motorcycle", "rocket")
SPLITS = {"train": (0.0, 0.60), "calibration": (0.60, 0.75), "test": (0.75, 1.0)}
GAP = 8
TEST_SIZE = 128
"""Test and calibration crops are at most this many pixels on a side, to keep the run short."""


def photograph(name: str) -> np.ndarray:
    """One whole photograph, [H, W, 3] uint8."""
    image = data.stereo_motorcycle()[0] if name == "motorcycle" else getattr(data, name)()
    if image.ndim == 2:
        image = np.repeat(image[..., None], 3, axis=-1)
    return image[..., :3]


def region(name: str, split: str) -> np.ndarray:
    """The part of one photograph that belongs to one split, [H, W, 3] uint8."""
    image = photograph(name)
    start, stop = (round(share * image.shape[1]) for share in SPLITS[split])
    region = image[:, start + (GAP if start else 0) : stop]
    if split == "train":
        return region
    top = (region.shape[0] - TEST_SIZE) // 2
    return region[top : top + TEST_SIZE, :TEST_SIZE]


def prepare(folder: Path, seed: int = 0) -> None:
    """Write train/, calibration/ and test/ below `folder`, each with degraded/ and clean/ PNGs."""
    task = get_task("deraining")
    for split_index, split in enumerate(SPLITS):
        for index, name in enumerate(PHOTOGRAPHS):
            clean = region(name, split)
            rng = np.random.default_rng([seed, split_index, index])
            degraded = task.degrade(clean.astype(np.float32) / 255, rng)
            pair = {"clean": clean, "degraded": np.rint(degraded * 255).astype(np.uint8)}
            for kind, pixels in pair.items():
                target = folder / split / kind / f"{name}.png"
                target.parent.mkdir(parents=True, exist_ok=True)
                PilImage.fromarray(pixels).save(target)
