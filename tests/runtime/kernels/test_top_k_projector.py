"""The projector's CUDA source, run on the CPU, against LAPACK in float64."""

from __future__ import annotations

import numpy as np
import pytest

from kdguard.runtime.gpu_check.subjects import exact_projector, gram_with_gap, projector
from tests.runtime.kernels.kernels_on_cpu import KernelsOnCpu

PROMISED = 1e-5
"""Error of the projector at gaps of 1e-2 and more."""


@pytest.mark.parametrize(("channels", "rank"), [(1, 1), (3, 2), (16, 4), (17, 16), (48, 1), (64, 4), (96, 8)])
@pytest.mark.parametrize("gap", [1e-2, 0.3])
def test_finds_the_leading_subspace(kernels: KernelsOnCpu, channels: int, rank: int, gap: float) -> None:
    gram = np.concatenate([gram_with_gap(channels, rank, gap, seed) for seed in range(2)])
    expected = exact_projector(gram, rank)
    assert np.abs(projector(kernels.project_by_blocks(gram, rank)) - expected).max() < PROMISED
    assert np.abs(projector(kernels.project_by_one_thread(gram, rank)) - expected).max() < PROMISED


def test_many_channels(kernels: KernelsOnCpu) -> None:
    """As many as the kernel takes, where nothing fits into shared memory."""
    gram = gram_with_gap(512, 2, 0.5)
    found = kernels.project_by_blocks(gram, 2, threads=256, in_shared_memory=False)
    assert np.abs(projector(found) - exact_projector(gram, 2)).max() < PROMISED


def test_neither_threads_nor_memory_change_a_bit(kernels: KernelsOnCpu) -> None:
    gram = gram_with_gap(24, 4, 0.1)
    again = kernels.project_by_blocks(gram, 4, threads=64)
    assert np.array_equal(kernels.project_by_blocks(gram, 4, threads=64), again)
    assert np.array_equal(kernels.project_by_blocks(gram, 4, threads=64, in_shared_memory=False), again)


def test_images_of_a_batch_do_not_meet(kernels: KernelsOnCpu) -> None:
    grams = [gram_with_gap(20, 3, 0.1, seed) for seed in range(3)]
    together = kernels.project_by_blocks(np.concatenate(grams), 3)
    for gram, found in zip(grams, together, strict=True):
        assert np.array_equal(kernels.project_by_blocks(gram, 3)[0], found)


@pytest.mark.parametrize("scale", [1e-30, 1e-12, 1e12, 1e30])
def test_scale_does_not_matter(kernels: KernelsOnCpu, scale: float) -> None:
    gram = gram_with_gap(16, 4, 0.1)
    expected = exact_projector(gram, 4)
    found = kernels.project_by_blocks((gram * np.float32(scale)).astype(np.float32), 4)
    assert np.abs(projector(found) - expected).max() < PROMISED


@pytest.mark.parametrize("ratio", [1e-10, 1e-19, 1e-20, 1e-30])
def test_a_faint_direction_of_its_own(kernels: KernelsOnCpu, ratio: float) -> None:
    """Far below the largest, and yet nothing disturbs it: its square alone would leave the range of floats."""
    gram = np.diag(np.array([1, ratio, 0, 0], np.float32))[None]
    for found in (kernels.project_by_blocks(gram, 3), kernels.project_by_one_thread(gram, 3)):
        assert np.abs(projector(found)[0] - np.diag([1, 1, 0, 0])).max() < PROMISED


def test_nothing_in_nothing(kernels: KernelsOnCpu) -> None:
    for gram in (np.zeros((1, 8, 8), np.float32), np.full((1, 8, 8), np.inf, np.float32)):
        assert not kernels.project_by_blocks(gram, 4).any()


def test_a_map_of_one_direction_has_one(kernels: KernelsOnCpu) -> None:
    direction = np.linspace(-1, 2, 12, dtype=np.float32)
    vectors = kernels.project_by_blocks(np.outer(direction, direction)[None], 3)[0]
    norms = np.linalg.norm(vectors, axis=0)
    assert norms[0] == pytest.approx(1, abs=1e-6)
    assert np.abs(vectors[:, 0]) == pytest.approx(np.abs(direction) / np.linalg.norm(direction), abs=1e-6)
    # Whatever else comes is rounding, orthogonal to it, or zero.
    assert np.abs(vectors[:, 1:].T @ vectors[:, 0]).max() < 1e-6
    assert set(np.round(norms[1:], 5)) <= {0.0, 1.0}


def test_equal_values_give_a_basis_of_their_space(kernels: KernelsOnCpu) -> None:
    """Three equal eigenvalues: single vectors mean nothing, the space does."""
    basis = np.linalg.qr(np.random.default_rng(0).standard_normal((10, 10)))[0]
    gram = ((basis * np.array([2, 2, 2, *[0.1] * 7])) @ basis.T).astype(np.float32)[None]
    found = kernels.project_by_blocks(gram, 3)
    assert np.abs(projector(found)[0] - basis[:, :3] @ basis[:, :3].T).max() < PROMISED


def test_more_vectors_than_channels(kernels: KernelsOnCpu) -> None:
    gram = gram_with_gap(5, 5, 0.1)
    found = kernels.project_by_blocks(gram, 8)[0]
    assert np.abs(projector(found) - np.eye(5)).max() < PROMISED
    assert not found[:, 5:].any()


def test_a_channel_with_nan_is_left_out(kernels: KernelsOnCpu) -> None:
    gram = gram_with_gap(9, 2, 0.2)
    gram[0, 4, :] = gram[0, :, 4] = np.nan
    found = kernels.project_by_blocks(gram, 2)[0]
    without = np.delete(np.delete(gram, 4, 1), 4, 2)
    assert not found[4].any()
    assert np.abs(projector(np.delete(found, 4, 0)) - exact_projector(without, 2)[0]).max() < PROMISED


def test_by_the_plan_of_the_library(kernels: KernelsOnCpu) -> None:
    """As many threads, and memory of the kind, as the host side chooses; more images than one launch takes."""
    for channels, rank, images in [(12, 3, 7), (100, 2, 1)]:
        gram = np.concatenate([gram_with_gap(channels, rank, 0.1, seed) for seed in range(images)])
        assert np.abs(projector(kernels.project(gram, rank)) - exact_projector(gram, rank)).max() < PROMISED
