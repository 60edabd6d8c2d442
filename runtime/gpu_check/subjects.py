"""Maps, matrices and attributes that the kernels are checked on. The tests of the kernels use the same ones."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kdguard.graph_passes.op.reference import Perturbed

Array = NDArray[Any]


@dataclass(frozen=True)
class PlainAttributes:
    """`SvdPerturbAttributes` without pydantic and its checks."""

    rank: int = 4
    gain: float = 10.0
    centred: bool = False
    adaptive: float = 0.0
    modulation: int = 0
    pattern: Sequence[float] = (0.0,)
    coherence: float = 0.0
    stride: int = 1


KEY = tuple(np.random.default_rng(1).standard_normal(4096).tolist())
EXPONENTS = tuple(np.random.default_rng(2).uniform(-1, 1, 97).tolist())
VARIANTS: dict[str, dict[str, Any]] = {
    "plain": {},
    "rank 1": {"rank": 1},
    "rank 11": {"rank": 11},
    "centred": {"centred": True},
    "adaptive": {"adaptive": 0.5},
    "pattern": {"modulation": 1, "pattern": EXPONENTS},
    "tail sign": {"modulation": 2, "pattern": KEY},
    "coherence": {"coherence": 1.0},
    "all": {"centred": True, "adaptive": 0.5, "modulation": 2, "pattern": KEY, "coherence": 3.0, "stride": 2},
}
SURE = 3e-5
"""Signs that depend on less than this of the map's size may be decided either way."""


def feature_maps(shape: tuple[int, ...], dtype: Any = np.float32, seed: int = 0) -> Array:
    """Maps [N, C, spatial...] with well separated singular values."""
    rng = np.random.default_rng(seed)
    images, channels, positions = shape[0], shape[1], int(np.prod(shape[2:]))
    few = min(channels, positions)
    left = np.linalg.qr(rng.standard_normal((images, channels, few)))[0]
    right = np.linalg.qr(rng.standard_normal((images, positions, few)))[0]
    values = 1.3 ** -np.arange(few) * np.sqrt(positions)
    return np.ascontiguousarray((left * values @ right.swapaxes(1, 2)).reshape(shape), dtype)


def worst(found: Array, reference: Perturbed, shape: tuple[int, ...]) -> float:
    """Largest error where signs are sure, relative to the largest value."""
    expected = reference.Y.astype(np.float64)
    sure = (reference.doubt > SURE).reshape(shape[0], 1, *shape[2:])
    return float((np.abs(found.astype(np.float64) - expected) * sure).max() / np.abs(expected).max())


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
    """U U^T [N, C, C] in float64."""
    return vectors.astype(np.float64) @ vectors.astype(np.float64).swapaxes(-1, -2)


def exact_projector(gram: Array, rank: int) -> Array:
    """By LAPACK in float64."""
    return projector(np.linalg.eigh(gram.astype(np.float64))[1][..., ::-1][..., :rank])


def exact_gram(maps: Array, attributes: PlainAttributes) -> Array:
    """Gram matrices [N, C, C] in float64."""
    sampled = maps[:, :, :: attributes.stride].reshape(*maps.shape[:2], -1).astype(np.float64)
    if attributes.centred:
        sampled = sampled - sampled.mean(2, keepdims=True)
    return np.asarray(sampled @ sampled.swapaxes(1, 2) / sampled.shape[2])
