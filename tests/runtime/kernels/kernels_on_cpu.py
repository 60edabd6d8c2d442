"""The CUDA kernels as a CPU runs them, behind NumPy arrays; and maps whose singular values are known."""

from __future__ import annotations

import ctypes
from typing import Any

import numpy as np

from kdguard.runtime.kernels.device_library import DeviceLibrary

Array = np.ndarray[Any, np.dtype[Any]]


class KernelsOnCpu(DeviceLibrary):
    """The build of runtime/kernels/on_cpu.cpp: the op as on a GPU, and entry points for tests."""

    def run_in_reverse(self, reverse: bool) -> None:
        """Whether threads of a block take their turns from the last to the first, from now on."""
        self._library.run_in_reverse(int(reverse))

    def project_by_blocks(self, gram: Array, rank: int, *, threads: int = 64, in_shared_memory: bool = True) -> Array:
        """Vectors [N, C, k] by blocks of CUDA threads."""
        vectors = np.full((*gram.shape[:2], rank), np.nan, np.float32)
        sizes = (len(gram), gram.shape[1], rank)
        self._library.project_by_blocks(_at(gram), _at(vectors), *sizes, threads, int(in_shared_memory))
        return vectors

    def project_by_one_thread(self, gram: Array, rank: int) -> Array:
        vectors = np.full((*gram.shape[:2], rank), np.nan, np.float32)
        self._library.project_by_one_thread(_at(gram), _at(vectors), len(gram), gram.shape[1], rank)
        return vectors


def _at(array: Array) -> ctypes.c_void_p:
    return ctypes.c_void_p(array.ctypes.data)


def gram_with_gap(channels: int, rank: int, gap: float, seed: int = 0) -> Array:
    """A Gram matrix [1, C, C], float32, whose k-th eigenvalue lies the share `gap` above the next one."""
    rng = np.random.default_rng(seed)
    basis = np.linalg.qr(rng.standard_normal((channels, channels)))[0]
    values = np.sort(rng.uniform(0, 1, channels))[::-1]
    values[:rank] = np.sort(rng.uniform(1, 4, min(rank, channels)))[::-1]
    if channels > rank:
        values[rank:] *= (1 - gap) * values[rank - 1] / values[rank]
    gram = ((basis * values) @ basis.T).astype(np.float32)
    return np.ascontiguousarray((gram + gram.T)[None] / 2)


def projector(vectors: Array) -> Array:
    return vectors.astype(np.float64) @ vectors.astype(np.float64).swapaxes(-1, -2)


def exact_projector(gram: Array, rank: int) -> Array:
    """By LAPACK in float64."""
    return projector(np.linalg.eigh(gram.astype(np.float64))[1][..., ::-1][..., :rank])
