"""That running CUDA source on the CPU finds a missing barrier: the one that keeps two sums apart is taken out."""

from __future__ import annotations

import ctypes
import subprocess
from pathlib import Path

import numpy as np
import pytest

from kdguard.export.errors import MissingDependencyError
from kdguard.runtime.kernels.build import FLAGS, SOURCES, compiler

TWO_SUMS = """
#include "cuda_on_cpu.h"
#include "block.cuh"

extern "C" __attribute__((visibility("default"))) void two_sums(float* sums, int threads) {
    kdguard_fibers::launch(dim3(1), dim3(threads), kdguard::WARP * sizeof(float), [&] {
        const kdguard::CudaBlock block{reinterpret_cast<float*>(kdguard_fibers::dynamic_shared)};
        const float thread = static_cast<float>(block.thread());
        const float first = block.sum(thread), second = block.sum(1.0f);
        sums[2 * block.thread()] = first;
        sums[2 * block.thread() + 1] = second;
    });
}
"""
BARRIER = "        __syncthreads();  // whoever still reads the last result does so before this\n"


def two_sums(folder: Path, block: str) -> np.ndarray:
    """Both sums as each of 96 threads sees them, [96, 2]."""
    for name, text in [("sums.cpp", TWO_SUMS), ("block.cuh", block)]:
        (folder / name).write_text(text)
    (folder / "cuda_on_cpu.h").write_bytes((SOURCES / "cuda_on_cpu.h").read_bytes())
    try:
        command = [compiler(), "-O1", *FLAGS, "-shared", "sums.cpp", "-o", "sums.so"]
    except MissingDependencyError as error:
        pytest.skip(str(error))
    subprocess.run(command, cwd=folder, check=True)
    sums = np.empty((96, 2), np.float32)
    ctypes.CDLL(str(folder / "sums.so")).two_sums(ctypes.c_void_p(sums.ctypes.data), len(sums))
    return sums


def test_a_missing_barrier_is_found(tmp_path: Path) -> None:
    block = (SOURCES / "block.cuh").read_text()
    assert BARRIER in block
    exact = np.array([96 * 95 / 2, 96])
    for name, source, right in [("whole", block, True), ("without", block.replace(BARRIER, ""), False)]:
        (tmp_path / name).mkdir()
        assert bool((two_sums(tmp_path / name, source) == exact).all()) == right
