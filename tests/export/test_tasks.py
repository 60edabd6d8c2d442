"""Degradation models: seeded, in range, of the stated strength."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from kdguard.export.errors import UserError
from kdguard.export.tasks import TASKS, get_task
from tests.conftest import photograph

CLEAN = photograph(96).astype(np.float32) / 255


def test_the_six_tasks_are_there() -> None:
    assert set(TASKS) == {"super-resolution", "low-light", "underwater", "dehazing", "deraining", "denoising"}
    with pytest.raises(UserError, match="choose one of"):
        get_task("dereining")


@pytest.mark.parametrize("name", sorted(TASKS))
def test_same_seed_same_image(name: str) -> None:
    task = get_task(name)
    images = [task.degrade(CLEAN, np.random.default_rng(seed), 2) for seed in (1, 1, 2)]
    np.testing.assert_array_equal(images[0], images[1])
    if name != "super-resolution":
        assert not np.array_equal(images[0], images[2])


def test_rain_only_brightens() -> None:
    rainy = get_task("deraining").degrade(CLEAN, np.random.default_rng(0))
    assert rainy.max() <= 1
    assert (rainy >= CLEAN - 1e-6).all()
    assert 0.01 < (rainy - CLEAN).mean() < 0.2


def test_noise_has_sigma_25() -> None:
    flat = np.full((256, 256, 1), 0.5, np.float32)
    noisy = get_task("denoising").degrade(flat, np.random.default_rng(0))
    assert np.std(noisy - flat) == pytest.approx(25 / 255, rel=0.02)


def test_downscaling_is_antialiased_bicubic() -> None:
    """torch's own antialiased bicubic is the same filter, a = -0.5 like imresize."""
    small = get_task("super-resolution").degrade(CLEAN, np.random.default_rng(0), 2)
    tensor = torch.from_numpy(CLEAN.transpose(2, 0, 1)[None].copy())
    expected = torch.nn.functional.interpolate(tensor, scale_factor=0.5, mode="bicubic", antialias=True)
    np.testing.assert_allclose(small, expected[0].clamp(0, 1).numpy().transpose(1, 2, 0), atol=2e-3)


@pytest.mark.parametrize("scale", [2, 3, 4])
def test_bicubic_keeps_flat_images_and_shrinks(scale: int) -> None:
    small = get_task("super-resolution").degrade(
        np.full((24, 36, 3), 0.25, np.float32), np.random.default_rng(0), scale
    )
    assert small.shape == (24 // scale, 36 // scale, 3)
    np.testing.assert_allclose(small, 0.25, atol=1e-6)
    assert get_task("super-resolution").border(scale) == scale
