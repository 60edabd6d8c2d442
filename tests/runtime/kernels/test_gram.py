"""The Gram kernel's CUDA source, run on the CPU, against NumPy in float64."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import pytest

from kdguard.runtime.gpu_check.subjects import PlainAttributes, exact_gram
from tests.runtime.kernels.kernels_on_cpu import Array, KernelsOnCpu


def maps_of(shape: tuple[int, ...], dtype: type = np.float32) -> Array:
    """Far from zero in the mean, as behind a ReLU."""
    return (np.random.default_rng(0).standard_normal(shape) + 3).astype(dtype)


def worst(found: Array, exact: Array) -> float:
    return float(np.abs(found - exact).max() / np.abs(exact).max())


@pytest.mark.parametrize("channels", [1, 3, 16, 17, 32, 33, 64, 65, 130])
def test_any_number_of_channels(kernels: KernelsOnCpu, channels: int) -> None:
    maps = maps_of((1, channels, 11, 13))
    plain = PlainAttributes()
    assert worst(kernels.gram(maps, plain), exact_gram(maps, plain)) < 1e-6


@pytest.mark.parametrize(
    "shape", [(1, 8, 1), (1, 8, 111), (1, 8, 112), (1, 8, 1121), (1, 70, 3, 187), (1, 2, 900, 999)]
)
def test_any_number_of_positions(kernels: KernelsOnCpu, shape: tuple[int, ...]) -> None:
    """Chunks and pieces that end anywhere, from one position to more pieces than there may be."""
    maps = maps_of(shape)
    plain = PlainAttributes()
    assert worst(kernels.gram(maps, plain), exact_gram(maps, plain)) < 1e-6


@pytest.mark.parametrize("dtype", [np.float32, np.float16, ml_dtypes.bfloat16])
@pytest.mark.parametrize("centred", [False, True])
@pytest.mark.parametrize("stride", [1, 3])
def test_types_means_and_strides(kernels: KernelsOnCpu, dtype: type, centred: bool, stride: int) -> None:
    attributes = PlainAttributes(centred=centred, stride=stride)
    maps = maps_of((2, 20, 17, 3, 29), dtype)
    assert worst(kernels.gram(maps, attributes), exact_gram(maps, attributes)) < 1e-6


def test_more_images_than_a_group(kernels: KernelsOnCpu) -> None:
    """An image's matrix depends neither on the others nor on how many there are."""
    maps = maps_of((7, 5, 4, 9))
    attributes = PlainAttributes(centred=True)
    together = kernels.gram(maps, attributes)
    assert worst(together, exact_gram(maps, attributes)) < 1e-6
    for image, found in zip(maps, together, strict=True):
        assert np.array_equal(kernels.gram(image[None], attributes)[0], found)


def test_the_order_of_threads_does_not_matter(kernels: KernelsOnCpu) -> None:
    attributes = PlainAttributes(centred=True)
    for channels in (24, 66):
        maps = maps_of((1, channels, 9, 70))
        forward = kernels.gram(maps, attributes)
        kernels.run_in_reverse(True)
        try:
            backward = kernels.gram(maps, attributes)
        finally:
            kernels.run_in_reverse(False)
        assert np.array_equal(forward, backward)


def test_a_nan_stays_in_its_channel(kernels: KernelsOnCpu) -> None:
    maps = maps_of((1, 6, 5, 5))
    maps[0, 2, 1, 1] = np.nan
    found = np.isnan(kernels.gram(maps, PlainAttributes())[0])
    channel = np.arange(6) == 2
    assert np.array_equal(found, channel[:, None] | channel)
