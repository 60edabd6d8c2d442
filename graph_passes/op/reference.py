"""NumPy reference of the op, on `numpy.linalg.svd` in float64. Slow and plain on purpose."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from kdguard.graph_passes.op.attributes import SvdPerturbAttributes

Array = NDArray[np.floating]


@dataclass(frozen=True)
class Perturbed:
    """What `SvdPerturb` returns: Y like X, basis U [N, C, k] and mean [N, C, 1] in float64."""

    Y: Array
    U: Array
    mean: Array


def _flat(X: Array) -> NDArray[np.float64]:
    return X.astype(np.float64).reshape(X.shape[0], X.shape[1], -1)


def top_singular_vectors(F: NDArray[np.float64], rank: int) -> NDArray[np.float64]:
    """Left singular vectors of one [C, P] matrix for its `rank` largest singular values, [C, rank].

    Columns beyond the matrix's own rank are zero: there is nothing there to amplify.
    """
    U = np.zeros((F.shape[0], rank))
    vectors, values, _ = np.linalg.svd(F, full_matrices=False)
    genuine = values[:rank] > values[:1] * np.finfo(np.float64).eps * max(F.shape)
    found = vectors[:, :rank][:, genuine]
    U[:, : found.shape[1]] = found
    return U


def svd_perturb(X: Array, attributes: SvdPerturbAttributes, strength: float = 1.0) -> Perturbed:
    """Amplify the top singular values of every image's feature map (ASVP, arXiv 2510.08925).

    Args:
        X: feature maps [N, C, spatial...], rank 3 to 5, finite.
        strength: 0 leaves X as it is, 1 applies the whole gain; clipped to [0, 1].
    """
    flat = _flat(X)
    mean = flat.mean(axis=2, keepdims=True) * attributes.centred
    centred = flat - mean
    U = np.stack([top_singular_vectors(F, attributes.rank) for F in centred])
    V = np.swapaxes(U, 1, 2) @ centred
    moved = flat + float(np.clip(strength, 0, 1)) * (attributes.gain - 1) * (U @ V)
    with np.errstate(over="ignore"):
        return Perturbed(moved.reshape(X.shape).astype(X.dtype), U, mean)


def svd_restore(Y: Array, U: Array, mean: Array, attributes: SvdPerturbAttributes, strength: float = 1.0) -> Array:
    """Undo `svd_perturb`, given the basis and mean that it returned."""
    flat = _flat(Y)
    extra = float(np.clip(strength, 0, 1)) * (attributes.gain - 1)
    V = np.swapaxes(U, 1, 2) @ (flat - mean)
    return (flat - extra / (1 + extra) * (U @ V)).reshape(Y.shape).astype(Y.dtype)
