"""The CUDA kernels as a CPU runs them, behind NumPy arrays."""

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

    def project_as_plugin(self, gram: Array, rank: int, shared_bytes: int, *, threads: int = 64) -> Array:
        """The same through the entry point that TensorRT launches."""
        vectors = np.full((*gram.shape[:2], rank), np.nan, np.float32)
        sizes = (len(gram), gram.shape[1], rank)
        self._library.project_as_plugin(_at(gram), _at(vectors), *sizes, threads, shared_bytes)
        return vectors

    def plugin_shared_bytes(self, channels: int, rank: int) -> int:
        return self._library.plugin_shared_bytes(channels, rank)

    def project_by_one_thread(self, gram: Array, rank: int) -> Array:
        vectors = np.full((*gram.shape[:2], rank), np.nan, np.float32)
        self._library.project_by_one_thread(_at(gram), _at(vectors), len(gram), gram.shape[1], rank)
        return vectors


def _at(array: Array) -> ctypes.c_void_p:
    return ctypes.c_void_p(array.ctypes.data)
