"""Dehazing, low-light and underwater: the published image models hold, and published teachers undo them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image as PilImage
from scipy.ndimage import minimum_filter

from kdguard.export.tasks import Image, get_task
from kdguard.export.tasks.dehazing import Dehazing
from kdguard.export.tasks.depth import draw_depth
from kdguard.export.tasks.low_light import LowLight, linear_to_srgb, srgb_to_linear
from kdguard.export.tasks.underwater import WATER_TYPES, Underwater
from kdguard.runtime import open_model
from kdguard.runtime.metrics import psnr
from tests.conftest import photograph

CLEAN = photograph(96).astype(np.float32) / 255
SEEDS = range(12)


def flat(value: float) -> Image:
    return np.full((64, 80, 3), value, np.float32)


def degrade(name: str, clean: Image, seed: int) -> Image:
    return get_task(name).degrade(clean, np.random.default_rng(seed))


def dark_channel(image: Image) -> float:
    return float(minimum_filter(image.min(axis=-1), 15).mean())


@pytest.mark.parametrize("name", ["dehazing", "low-light", "underwater"])
@pytest.mark.parametrize("clean", [CLEAN, flat(0), flat(1), CLEAN[:1, :1], CLEAN[:7, :90]])
def test_shape_type_and_range(name: str, clean: Image) -> None:
    for seed in SEEDS:
        degraded = degrade(name, clean, seed)
        assert degraded.shape == clean.shape
        assert degraded.dtype == np.float32
        assert degraded.min() >= 0
        assert degraded.max() <= 1


@pytest.mark.parametrize("seed", SEEDS)
def test_depth_is_near_below_and_smooth(seed: int) -> None:
    depth = draw_depth(96, 128, np.random.default_rng(seed))
    assert depth.shape == (96, 128)
    assert 0 <= depth.min() < depth.max() <= 1
    assert depth[:24].mean() > 1.3 * depth[-24:].mean()
    assert max(np.abs(np.diff(depth, axis=axis)).max() for axis in (0, 1)) < 0.2


def test_depth_is_the_same_scene_at_any_size() -> None:
    small, large = (draw_depth(48 * scale, 64 * scale, np.random.default_rng(5)) for scale in (1, 4))
    assert np.abs(large.reshape(48, 4, 64, 4).mean(axis=(1, 3)) - small).mean() < 0.02


def test_haze_is_one_airlight_over_one_transmission() -> None:
    """Black shows A (1 - t), white less black shows t: A must come out the same at every pixel."""
    airlights, transmissions = [], []
    for seed in SEEDS:
        black, white = degrade("dehazing", flat(0), seed), degrade("dehazing", flat(1), seed)
        transmission = white - black
        airlight = black / (1 - transmission)
        assert np.ptp(airlight) < 1e-4
        airlights.append(airlight.mean())
        transmissions += [transmission.min(), transmission.max()]
    assert 0.7 <= min(airlights) < 0.8 < 0.9 < max(airlights) <= 1
    assert np.exp(-1.8) <= min(transmissions) < 0.4
    assert 0.9 < max(transmissions) <= 1


def test_haze_raises_the_dark_channel_and_lowers_contrast() -> None:
    for seed in SEEDS:
        hazy = degrade("dehazing", CLEAN, seed)
        assert dark_channel(hazy) > dark_channel(CLEAN) + 0.05
        assert hazy.std() < CLEAN.std()


def test_low_light_is_darker_by_a_factor_of_its_own_for_every_image() -> None:
    means = [degrade("low-light", CLEAN, seed).mean() for seed in SEEDS]
    assert max(means) < 0.8 * CLEAN.mean()
    assert min(means) < 0.2 * CLEAN.mean()


def test_low_light_keeps_the_order_of_grey_levels() -> None:
    ramp = np.repeat(np.linspace(0.2, 1, 16, dtype=np.float32), 256).reshape(16, 256, 1)
    for seed in SEEDS:
        dark = degrade("low-light", ramp, seed).mean(axis=(1, 2))
        assert (np.diff(dark) > 0).all()
        assert (dark < ramp[:, 0, 0]).all()


@pytest.mark.parametrize("value", [0.2, 0.6])
def test_low_light_noise_is_that_of_counted_electrons(value: float, monkeypatch: pytest.MonkeyPatch) -> None:
    """In linear light: variance = mean / full well + (read noise / full well)^2."""
    well, read = 1e4, 3.0
    monkeypatch.setattr(LowLight, "gamma", (1.5, 1.5))
    monkeypatch.setattr(LowLight, "full_well", (well, well))
    monkeypatch.setattr(LowLight, "read_noise", (read, read))
    clean = np.full((300, 300, 1), value, np.float32)
    light = srgb_to_linear(degrade("low-light", clean, 0).astype(np.float64))
    assert light.var() == pytest.approx(light.mean() / well + (read / well) ** 2, rel=0.03)


def test_linear_light_is_that_of_the_standard() -> None:
    assert srgb_to_linear(np.array(0.5)) == pytest.approx(0.21404, abs=1e-5)
    values = np.linspace(0, 1, 101)
    np.testing.assert_allclose(linear_to_srgb(srgb_to_linear(values)), values, atol=1e-6)


def test_water_takes_most_from_red_at_every_pixel() -> None:
    """Two dark greys of one seed differ by what still arrives from the scene."""
    for seed in SEEDS:
        arrives = degrade("underwater", flat(0.2), seed) - degrade("underwater", flat(0), seed)
        assert arrives.min() > 0
        assert (arrives[..., 0] < arrives[..., 1]).all()
        assert (arrives[..., 0] < arrives[..., 2]).all()
        water = degrade("underwater", CLEAN, seed)
        change = water.mean(axis=(0, 1)) - CLEAN.mean(axis=(0, 1))
        assert change.argmin() == 0


def test_water_is_of_the_published_types() -> None:
    """ln t of two channels stand in the ratio of ln N: the table's, at every pixel, for every type."""
    seen = set()
    for seed in range(40):
        black = degrade("underwater", flat(0), seed).astype(np.float64)
        light = black + (degrade("underwater", flat(0.2), seed) - black) / 0.2
        assert np.ptp(light, axis=(0, 1)).max() < 1e-4
        light = light.mean(axis=(0, 1))
        log_t = np.log(1 - black / light).mean(axis=(0, 1))
        ratios = {name: np.log(left) for name, left in WATER_TYPES.items()}
        name = min(ratios, key=lambda n: np.abs(ratios[n] / ratios[n][0] - log_t / log_t[0]).max())
        np.testing.assert_allclose(ratios[name] / ratios[name][0], log_t / log_t[0], rtol=0.01)
        metres = np.log(light / 1.5) / ratios[name]
        np.testing.assert_allclose(metres, metres[0], rtol=0.01)
        assert 3 <= metres[0] <= 5
        seen.add(name)
    assert seen == set(WATER_TYPES)


def test_grey_water_is_green_water() -> None:
    grey = Underwater().degrade(CLEAN[..., 1:2], np.random.default_rng(2))
    np.testing.assert_allclose(grey, degrade("underwater", CLEAN, 2)[..., 1:2], atol=1e-6)


def read_crops(folder: Path, count: int, height: int, width: int) -> list[Image]:
    files = sorted(folder.iterdir())
    files = files[:: len(files) // count][:count]
    return [np.asarray(PilImage.open(f).convert("RGB"), np.float32)[:height, :width] / 255 for f in files]


@pytest.fixture
def gain(zoo: Path) -> Callable[[str, list[Image]], tuple[float, float]]:
    """Mean PSNR against the clean images, before and after a published teacher restored them."""

    def measure(name: str, clean: list[Image]) -> tuple[float, float]:
        task, before, after = get_task(name), [], []
        session = open_model(zoo / name / "teacher.onnx", task=name, provider="cpu")
        for index, image in enumerate(clean):
            degraded = task.degrade(image, np.random.default_rng([0, index]))
            before.append(psnr(degraded, image, task))
            after.append(psnr(session.restore(degraded), image, task))
        return float(np.mean(before)), float(np.mean(after))

    return measure


@pytest.mark.parametrize(("name", "least"), [("dehazing", 2), ("low-light", 6), ("underwater", 0.5)])
def test_published_teachers_undo_it(
    name: str, least: float, zoo: Path, gain: Callable[[str, list[Image]], tuple[float, float]]
) -> None:
    before, after = gain(name, read_crops(zoo / "train", 6, 240, 240))
    assert after > before + least


def test_haze_is_as_hard_as_the_published_pairs(
    zoo: Path, gain: Callable[[str, list[Image]], tuple[float, float]]
) -> None:
    """On the clean images of SOTS the published haze is undone to 30.4 dB."""
    clean = read_crops(zoo / "dehazing" / "test" / "clean", 3, 460, 620)
    published = read_crops(zoo / "dehazing" / "test" / "degraded", 3, 460, 620)
    ours = [Dehazing().degrade(image, np.random.default_rng([0, i])) for i, image in enumerate(clean)]
    assert np.mean(ours) == pytest.approx(np.mean(published), abs=0.1)
    assert np.mean([dark_channel(i) for i in ours]) == pytest.approx(
        np.mean([dark_channel(i) for i in published]), abs=0.1
    )
    _, after = gain("dehazing", clean)
    assert after > 26
