"""The CUDA kernels as a CPU runs them, behind NumPy arrays; and maps whose singular values are known."""

from __future__ import annotations

import ctypes
from pathlib import Path
from typing import Any

import numpy as np

from kdguard.graph_passes.op import SvdPerturbAttributes

Array = np.ndarray[Any, np.dtype[Any]]


class Settings(ctypes.Structure):
    """As in runtime/kernels/settings.h."""

    _fields_ = (
        ("rank", ctypes.c_int),
        ("gain", ctypes.c_float),
        ("centred", ctypes.c_int),
        ("adaptive", ctypes.c_float),
        ("modulation", ctypes.c_int),
        ("pattern", ctypes.c_void_p),
        ("pattern_size", ctypes.c_longlong),
        ("coherence", ctypes.c_float),
        ("stride", ctypes.c_int),
    )


class KernelsOnCpu:
    """Entry points of runtime/kernels/on_cpu.cpp."""

    def __init__(self, library: Path) -> None:
        self._library = ctypes.CDLL(str(library))

    def run_in_reverse(self, reverse: bool) -> None:
        """Whether threads of a block take their turns from the last to the first, from now on."""
        self._library.run_in_reverse(int(reverse))

    def project(self, gram: Array, rank: int, *, threads: int = 64, in_shared_memory: bool = True) -> Array:
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

    def perturb(
        self, X: Array, attributes: SvdPerturbAttributes, strength: float | None = None, *, restorable: bool = True
    ) -> tuple[Array, Array | None]:
        """Y and the change, with the Gram matrix and the mean from NumPy and everything else by the kernels."""
        images, channels = X.shape[:2]
        flat = np.ascontiguousarray(X.reshape(images, channels, -1))
        sampled = X[:, :, :: attributes.stride].reshape(images, channels, -1).astype(np.float64)
        mean = sampled.mean(2, dtype=np.float64) if attributes.centred else np.zeros((images, channels))
        less = sampled - mean[:, :, None]
        gram = np.ascontiguousarray(less @ less.transpose(0, 2, 1) / less.shape[2], np.float32)
        mean32, pattern = mean.astype(np.float32), np.array(attributes.pattern, np.float32)
        vectors = self.project(gram, attributes.rank)
        output, change = np.empty_like(flat), np.full(flat.shape, np.nan, np.float32)
        applied = None if strength is None else np.array([strength], np.float32)
        entry = self._library.perturb_half if X.dtype == np.float16 else self._library.perturb_float
        settings = Settings(
            rank=attributes.rank,
            gain=attributes.gain,
            centred=attributes.centred,
            adaptive=attributes.adaptive,
            modulation=attributes.modulation,
            pattern=pattern.ctypes.data,
            pattern_size=len(pattern),
            coherence=attributes.coherence,
            stride=attributes.stride,
        )
        entry(
            ctypes.byref(settings),
            images,
            channels,
            ctypes.c_longlong(flat.shape[2]),
            _at(gram),
            _at(vectors),
            _at(mean32) if attributes.centred else None,
            None if applied is None else _at(applied),
            _at(flat),
            _at(output),
            _at(change) if restorable else None,
        )
        return output.reshape(X.shape), change.reshape(X.shape) if restorable else None


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
