"""The entry point that TensorRT launches: on the CPU, and as nvcc compiles it."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import numpy as np
import pytest

from kdguard.export.errors import MissingDependencyError
from kdguard.runtime.engines.plugin import KERNEL, SHARED_LIMIT, fits, shared_bytes
from kdguard.runtime.gpu_check.subjects import gram_with_gap
from kdguard.runtime.kernels.build import build_plugin_kernel, plugin_fingerprint, source_files
from tests.runtime.kernels.kernels_on_cpu import KernelsOnCpu


def test_shared_memory_is_counted_as_in_the_kernel(kernels: KernelsOnCpu) -> None:
    for channels in range(1, 130):
        for rank in (1, 4, 16):
            assert shared_bytes(channels, rank) == kernels.plugin_shared_bytes(channels, rank)


def test_maps_that_fit() -> None:
    assert all(fits(channels, rank) for channels in range(1, 65) for rank in range(1, 17))
    assert not fits(65, 1)
    assert shared_bytes(64, 16) <= SHARED_LIMIT < shared_bytes(65, 1)


@pytest.mark.parametrize(("channels", "rank"), [(1, 1), (16, 4), (33, 2), (64, 4), (64, 16)])
def test_it_is_the_kernel_that_is_tested_elsewhere(kernels: KernelsOnCpu, channels: int, rank: int) -> None:
    gram = np.concatenate([gram_with_gap(channels, rank, 0.1, seed) for seed in range(2)])
    found = kernels.project_as_plugin(gram, rank, shared_bytes(channels, rank))
    assert np.array_equal(found, kernels.project_by_blocks(gram, rank))


@pytest.mark.skipif(shutil.which("nvcc") is None, reason="there is no nvcc")
def test_its_parameters(tmp_path: Path) -> None:
    """TensorRT passes inputs, then scalars, then outputs: the matrix, two numbers of 32 bits, the vectors."""
    ptx = build_plugin_kernel(tmp_path / "plugin.ptx").read_text()
    entries = re.findall(r"\.entry (\w+)\((.*?)\)", ptx, re.DOTALL)
    assert [name for name, _ in entries] == [KERNEL]
    assert re.findall(r"\.param \.(\w+) ", entries[0][1]) == ["u64", "u32", "u32", "u64"]
    assert ".extern .func" not in ptx  # nothing is left for a linker, which there is none of


def test_without_nvcc(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NVCC", "no-such-compiler")
    with pytest.raises(MissingDependencyError, match=r"needs the CUDA compiler 'no-such-compiler'.*leave --plugin out"):
        build_plugin_kernel(tmp_path / "plugin.ptx")
    assert not list(tmp_path.iterdir())


def test_the_fingerprint_covers_the_architecture(monkeypatch: pytest.MonkeyPatch) -> None:
    before = plugin_fingerprint()
    monkeypatch.setattr("kdguard.runtime.kernels.build.PLUGIN_ARCHITECTURE", "compute_80")
    assert plugin_fingerprint() != before


def test_the_fingerprint_covers_what_is_included() -> None:
    plugin = next(path for path in source_files() if path.name == "plugin.cu")
    assert re.findall(r'#include "(.*)"', plugin.read_text()) == ["top_k_projector.cuh"]
    assert re.findall(r'#include "(.*)"', plugin.with_name("top_k_projector.cuh").read_text()) == ["block.cuh"]
    assert re.findall(r'#include "(.*)"', plugin.with_name("block.cuh").read_text()) == []
    assert len(plugin_fingerprint()) == 64
