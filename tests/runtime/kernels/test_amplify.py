"""The whole op's CUDA source, host side and kernels, run on the CPU, against the NumPy reference."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import pytest

from kdguard.graph_passes.op import SvdPerturbAttributes
from kdguard.graph_passes.op.reference import svd_perturb
from kdguard.runtime.gpu_check.subjects import VARIANTS, feature_maps, worst
from kdguard.runtime.kernels.device_library import DeviceError
from tests.runtime.kernels.kernels_on_cpu import KernelsOnCpu


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("shape", [(2, 16, 9, 13), (1, 48, 8, 8), (1, 130, 5, 5)])
def test_does_what_the_reference_does(kernels: KernelsOnCpu, variant: str, shape: tuple[int, ...]) -> None:
    attributes = SvdPerturbAttributes(**{"rank": 4, "gain": 10.0, **VARIANTS[variant]})
    maps = feature_maps(shape)
    found, change = kernels.perturb(maps, attributes)
    assert worst(found, svd_perturb(maps, attributes), shape) < 1e-5
    assert change is not None
    assert np.abs(found - change - maps).max() < 1e-5 * np.abs(found).max()


@pytest.mark.parametrize("variant", ["plain", "all"])
def test_half_precision_can_be_undone_exactly(kernels: KernelsOnCpu, variant: str) -> None:
    attributes = SvdPerturbAttributes(**{"rank": 4, "gain": 10.0, **VARIANTS[variant]})
    shape = (1, 24, 12, 11)
    maps = feature_maps(shape, np.float16)
    found, change = kernels.perturb(maps, attributes)
    assert worst(found, svd_perturb(maps, attributes), shape) < 2e-3
    assert change is not None
    assert np.array_equal((found.astype(np.float32) - change).astype(np.float16), maps)
    assert np.abs(change).max() > 0.1


def test_bfloat16_can_be_undone_exactly(kernels: KernelsOnCpu) -> None:
    attributes = SvdPerturbAttributes(rank=4, gain=10.0, centred=True, coherence=3.0)
    shape = (1, 24, 12, 11)
    maps = feature_maps(shape, ml_dtypes.bfloat16)
    found, change = kernels.perturb(maps, attributes)
    assert worst(found, svd_perturb(maps, attributes), shape) < 2e-2
    assert change is not None
    assert np.abs(change).max() > 0.1
    assert np.array_equal(kernels.restore(found, change), maps)


def test_restore(kernels: KernelsOnCpu) -> None:
    rng = np.random.default_rng(0)
    perturbed, change = rng.standard_normal((2, 3, 4, 50, 7), np.float32)
    assert np.array_equal(kernels.restore(perturbed, change), perturbed - change)


def test_more_images_than_a_group(kernels: KernelsOnCpu) -> None:
    attributes = SvdPerturbAttributes(rank=2, gain=5.0, centred=True)
    maps = feature_maps((7, 6, 4, 5))
    found, change = kernels.perturb(maps, attributes)
    assert worst(found, svd_perturb(maps, attributes), maps.shape) < 1e-5
    for index, image in enumerate(maps):
        alone, its_change = kernels.perturb(image[None], attributes)
        assert np.array_equal(found[index], alone[0])
        assert change is not None
        assert its_change is not None
        assert np.array_equal(change[index], its_change[0])


def test_what_it_refuses(kernels: KernelsOnCpu) -> None:
    with pytest.raises(DeviceError, match="kdguard_svd_perturb: invalid argument"):
        kernels.perturb(np.zeros((1, 513, 1), np.float32), SvdPerturbAttributes())
    with pytest.raises(DeviceError, match="kdguard_project: invalid argument"):
        kernels.project(np.zeros((1, 4, 4), np.float32), 17)
    empty = np.zeros((0, 4, 3), np.float32)
    assert kernels.perturb(empty, SvdPerturbAttributes())[0].shape == empty.shape


def test_strength(kernels: KernelsOnCpu) -> None:
    attributes = SvdPerturbAttributes(rank=2, gain=5.0)
    maps = feature_maps((1, 8, 6, 6))
    for strength in (0.0, 0.25, 1.0, -3.0, 7.0):
        found, _ = kernels.perturb(maps, attributes, strength)
        stated, _ = kernels.perturb(maps, attributes, strength, on_device=False)
        assert np.array_equal(found, stated)
        assert worst(found, svd_perturb(maps, attributes, strength), maps.shape) < 1e-5
    assert np.array_equal(kernels.perturb(maps, attributes, 0.0)[0], maps)


def test_without_a_restorer_nothing_else_changes(kernels: KernelsOnCpu) -> None:
    attributes = SvdPerturbAttributes(rank=2, gain=5.0)
    maps = feature_maps((1, 8, 6, 6))
    found, change = kernels.perturb(maps, attributes, restorable=False)
    assert change is None
    assert np.array_equal(found, kernels.perturb(maps, attributes)[0])


def test_makes_no_nan(kernels: KernelsOnCpu) -> None:
    """A position with NaN or infinity stays as it is, and so do maps without any energy."""
    attributes = SvdPerturbAttributes(rank=2, gain=5.0, coherence=2.0)
    maps = feature_maps((1, 6, 4, 8))
    broken = maps.copy()
    broken[0, 2, 1, 3] = np.nan
    found, _ = kernels.perturb(broken, attributes)
    assert np.isnan(found).sum() == 1
    others = np.arange(6) != 2
    assert np.array_equal(found[0, others, 1, 3], maps[0, others, 1, 3])
    zeros = np.zeros_like(maps)
    assert np.array_equal(kernels.perturb(zeros, attributes)[0], zeros)


@pytest.mark.parametrize("variant", ["plain", "all"])
def test_the_order_of_threads_does_not_matter(kernels: KernelsOnCpu, variant: str) -> None:
    """What lacks a barrier gives something else when the last thread comes first."""
    attributes = SvdPerturbAttributes(**{"rank": 9, "gain": 10.0, **VARIANTS[variant]})
    maps = feature_maps((1, 24, 9, 13))
    forward, change = kernels.perturb(maps, attributes)
    kernels.run_in_reverse(True)
    try:
        backward, its_change = kernels.perturb(maps, attributes)
    finally:
        kernels.run_in_reverse(False)
    assert np.array_equal(forward, backward)
    assert np.array_equal(change, its_change)
