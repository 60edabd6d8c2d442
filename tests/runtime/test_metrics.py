"""PSNR, SSIM and spectra against hand-computed and published values."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from scipy.signal import convolve2d

from kdguard.export.image_pairs import load_pairs
from kdguard.export.tasks import get_task
from kdguard.runtime import open_model
from kdguard.runtime.fidelity import measure_fidelity
from kdguard.runtime.metrics import PSNR_CEILING, psnr, radial_power_spectrum, ssim
from tests.conftest import photograph

RGB, SR = get_task("deraining"), get_task("super-resolution")
CLEAN = photograph(64).astype(np.float32) / 255


def test_psnr_by_hand() -> None:
    flat = np.full((20, 20, 3), 0.5, np.float32)
    assert psnr(flat + 0.1, flat, RGB) == pytest.approx(20.0, abs=1e-4)
    assert psnr(flat, flat, RGB) == PSNR_CEILING
    assert psnr(flat + 9, flat, RGB) == pytest.approx(-20 * np.log10(0.5), abs=1e-4)  # clipped to 1
    assert psnr(flat + 9, flat, RGB, clip=False) == pytest.approx(-20 * np.log10(9), abs=1e-4)


def test_super_resolution_scores_luma_inside_the_border() -> None:
    image = np.full((20, 20, 3), 0.5, np.float32)
    wrong = image.copy()
    wrong[:4] = wrong[-4:] = 0
    wrong[:, :4] = wrong[:, -4:] = 0
    assert psnr(wrong, image, SR, 4) == PSNR_CEILING
    assert psnr(wrong, image, SR, 3) < 20
    # A grey step of d changes Y by d (65.481 + 128.553 + 24.966) / 255.
    assert psnr(image + 0.1, image, SR, 2) == pytest.approx(-20 * np.log10(0.1 * 219 / 255), abs=1e-4)


def test_ssim_is_one_for_equal_and_falls_with_noise() -> None:
    rng = np.random.default_rng(0)
    values = [ssim(CLEAN + rng.normal(0, s, CLEAN.shape).astype(np.float32), CLEAN, RGB) for s in (0, 0.02, 0.1)]
    assert values[0] == pytest.approx(1.0)
    assert values[0] > values[1] > values[2] > 0


def test_ssim_by_hand() -> None:
    """Wang et al.: population moments under an 11x11 Gaussian of sigma 1.5, valid region only."""
    rng = np.random.default_rng(1)
    x = CLEAN[..., :1].astype(np.float64)
    y = np.clip(x + rng.normal(0, 0.1, x.shape), 0, 1)
    offsets = np.arange(-5, 6)
    window = np.exp(-(offsets[:, None] ** 2 + offsets[None] ** 2) / (2 * 1.5**2))
    window /= window.sum()

    def mean(a: np.ndarray) -> np.ndarray:
        return convolve2d(a[..., 0], window, mode="valid")

    mx, my = mean(x), mean(y)
    vx, vy, cov = mean(x * x) - mx**2, mean(y * y) - my**2, mean(x * y) - mx * my
    c1, c2 = 0.01**2, 0.03**2
    expected = ((2 * mx * my + c1) * (2 * cov + c2) / ((mx**2 + my**2 + c1) * (vx + vy + c2))).mean()
    assert ssim(y, x, RGB) == pytest.approx(expected, abs=1e-6)  # type: ignore[arg-type]


def test_published_values_are_reproduced(zoo: Path) -> None:
    """IMDN x4 on Set5: 32.21 dB and 0.8948, as its authors publish."""
    session = open_model(zoo / "super-resolution" / "teacher.onnx", task="super-resolution").session
    pairs = load_pairs(zoo / "super-resolution" / "test", SR, scale=session.card.scale)
    set5 = [pair for pair in pairs if pair.name.startswith("Set5")]
    report, _ = measure_fidelity(session, session, set5, "super-resolution")
    assert report.n == 5
    assert report.teacher.psnr == pytest.approx(32.21, abs=0.02)
    assert report.teacher.ssim == pytest.approx(0.8948, abs=0.0005)


def test_spectrum_of_a_wave_peaks_at_its_frequency() -> None:
    x = np.arange(64)
    wave = np.cos(2 * np.pi * 16 * x / 64)[None, :, None].repeat(64, axis=0).astype(np.float32)
    spectrum = radial_power_spectrum(wave)
    assert len(spectrum) == 32
    assert int(np.argmax(spectrum)) == 16
    assert spectrum[16] > 1e6 * spectrum[5]
