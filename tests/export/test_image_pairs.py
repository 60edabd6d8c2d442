"""Image folders, good and bad."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image as PilImage

from kdguard.export.errors import UserError
from kdguard.export.image_pairs import hash_pairs, load_pairs, read_image
from kdguard.export.tasks import TASKS, get_task
from tests.conftest import photograph

DERAIN, SR, DENOISE = get_task("deraining"), get_task("super-resolution"), get_task("denoising")
Writer = Callable[..., None]


def test_pairs_in_order_of_names(pairs_folder: Path) -> None:
    pairs = load_pairs(pairs_folder, DERAIN)
    assert [pair.name for pair in pairs] == ["p0.png", "p1.png", "p2.png", "p3.png"]
    assert pairs[0].clean.shape == (48, 48, 3)
    assert pairs[0].clean.dtype == np.float32
    np.testing.assert_allclose(pairs[1].clean, photograph(offset=40) / 255, atol=1e-6)


def test_clean_only_makes_seeded_degradation(tmp_path: Path, write_images: Writer) -> None:
    write_images(tmp_path / "clean", a=photograph(), b=photograph(offset=60))
    first, again = load_pairs(tmp_path, DERAIN, seed=3), load_pairs(tmp_path, DERAIN, seed=3)
    other = load_pairs(tmp_path, DERAIN, seed=4)
    assert hash_pairs(first) == hash_pairs(again) != hash_pairs(other)
    assert not np.array_equal(first[0].degraded, first[0].clean)


def test_super_resolution_crops_the_surplus(tmp_path: Path, write_images: Writer) -> None:
    write_images(tmp_path / "clean", a=photograph(50))
    (pair,) = load_pairs(tmp_path, SR, scale=4)
    assert pair.degraded.shape == (12, 12, 3)
    assert pair.clean.shape == (48, 48, 3)
    write_images(tmp_path / "degraded", a=photograph(12))
    (pair,) = load_pairs(tmp_path, SR, scale=4)
    assert pair.clean.shape == (48, 48, 3)


def test_grey_models_get_one_channel(tmp_path: Path, write_images: Writer) -> None:
    write_images(tmp_path / "clean", a=photograph())
    (pair,) = load_pairs(tmp_path, DENOISE, channels=1)
    assert pair.clean.shape == pair.degraded.shape == (48, 48, 1)


def test_floating_point_images_are_refused(tmp_path: Path) -> None:
    PilImage.fromarray(np.full((4, 5), 0.5, np.float32)).save(tmp_path / "float.tif")
    with pytest.raises(UserError, match="floating-point"):
        read_image(tmp_path / "float.tif", 3)


def test_sixteen_bit_and_alpha(tmp_path: Path) -> None:
    PilImage.fromarray(np.full((4, 5), 32768, np.uint16)).save(tmp_path / "deep.png")
    np.testing.assert_allclose(read_image(tmp_path / "deep.png", 3), np.full((4, 5, 3), 32768 / 65535), atol=1e-6)
    PilImage.fromarray(np.full((4, 5, 4), 128, np.uint8)).save(tmp_path / "alpha.png")
    assert read_image(tmp_path / "alpha.png", 3).shape == (4, 5, 3)


@pytest.mark.parametrize(
    ("break_it", "reason"),
    [
        (lambda f: [p.unlink() for p in (f / "clean").iterdir()], "no images"),
        (lambda f: (f / "clean" / "p2.png").unlink(), "1 of 4 images without a partner"),
        (lambda f: PilImage.fromarray(photograph(40)).save(f / "clean" / "p1.png"), "clean should be 48x48"),
        (lambda f: (f / "degraded" / "p3.png").write_bytes(b"no image"), "not a readable image"),
        (lambda f: (f / "clean").rename(f / "sharp"), "no clean/ folder"),
        (lambda f: f.rename(f.parent / "moved"), "no such folder"),
    ],
)
def test_bad_folders(pairs_folder: Path, break_it: Callable[[Path], object], reason: str) -> None:
    break_it(pairs_folder)
    with pytest.raises(UserError, match=reason) as caught:
        load_pairs(pairs_folder, DERAIN)
    assert str(pairs_folder) in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("name", sorted(TASKS))
def test_every_task_degrades_clean_images(name: str, channels: int, tmp_path: Path, write_images: Writer) -> None:
    write_images(tmp_path / "clean", a=photograph(), b=photograph(offset=60))
    for pair in load_pairs(tmp_path, get_task(name), channels):
        assert pair.degraded.shape == pair.clean.shape == (48, 48, channels)
        assert pair.degraded.dtype == np.float32
        assert not np.array_equal(pair.degraded, pair.clean) or name == "super-resolution"
