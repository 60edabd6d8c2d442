"""PSNR and SSIM as the field computes them, and the radially averaged power spectrum."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from kdguard.export.errors import UserError
from kdguard.export.image_pairs import ImagePair
from kdguard.export.tasks import Image, Task

PSNR_CEILING = 200.0
"""Reported for identical images, whose PSNR is infinite: JSON has no infinity."""

_Y_WEIGHTS = np.array([65.481, 128.553, 24.966]) / 255
_Y_OFFSET = 16 / 255

WINDOW = 11
"""Side of SSIM's window."""


def check_scorable(pairs: Sequence[ImagePair], task: Task, scale: int) -> None:
    """Raise where an image has no room for SSIM's window.

    Raises:
        UserError: names the first such image.
    """
    for pair in pairs:
        if min(pair.clean.shape[:2]) - 2 * task.border(scale) < WINDOW:
            raise UserError(
                f"{pair.name!r} is {pair.clean.shape[1]}x{pair.clean.shape[0]}: too small to score, SSIM needs "
                f"{WINDOW} pixels on a side after the border crop; leave it out"
            )


def _scored_region(image: Image, task: Task, scale: int) -> NDArray[np.float64]:
    """What the task scores: Y of BT.601 (studio range) or all channels, less the border."""
    values = image.astype(np.float64)
    if task.luma_only and values.shape[-1] == 3:
        values = (values @ _Y_WEIGHTS + _Y_OFFSET)[..., None]
    border = task.border(scale)
    return values[border : values.shape[0] - border, border : values.shape[1] - border]


def psnr(image: Image, reference: Image, task: Task, scale: int = 1, *, clip: bool = True) -> float:
    """Peak signal-to-noise ratio in dB, peak 1.

    Args:
        image: [H, W, C]; clipped to [0, 1] first unless `clip` is false.
        reference: [H, W, C].
    """
    first = _scored_region(np.clip(image, 0, 1) if clip else image, task, scale)
    error = float(np.mean((first - _scored_region(reference, task, scale)) ** 2))
    return PSNR_CEILING if error == 0 else min(PSNR_CEILING, -10 * float(np.log10(error)))


def ssim(image: Image, reference: Image, task: Task, scale: int = 1) -> float:
    """Structural similarity with the 11x11 Gaussian window, sigma 1.5 (Wang et al., TIP 2004)."""
    from skimage.metrics import structural_similarity

    return float(
        structural_similarity(  # type: ignore[no-untyped-call]
            _scored_region(np.clip(image, 0, 1), task, scale),
            _scored_region(reference, task, scale),
            gaussian_weights=True,
            sigma=1.5,
            use_sample_covariance=False,
            data_range=1.0,
            channel_axis=-1,
        )
    )


def radial_power_spectrum(image: Image) -> NDArray[np.float64]:
    """Power per spatial frequency, averaged over orientations and channels.

    Returns:
        [R] power for frequencies 0, 1/(2R), ... up to Nyquist, R = half the shorter side.
    """
    power = np.mean(np.abs(np.fft.fft2(image.astype(np.float64), axes=(0, 1))) ** 2, axis=-1)
    power /= power.size
    rows, columns = (np.fft.fftfreq(side) for side in power.shape)
    radius = np.hypot(rows[:, None], columns[None, :])
    bins = min(power.shape) // 2
    index = np.minimum((radius * 2 * bins).astype(int), bins)
    totals = np.bincount(index.ravel(), power.ravel(), minlength=bins + 1)
    counts = np.bincount(index.ravel(), minlength=bins + 1)
    return totals[:bins] / np.maximum(counts[:bins], 1)
