"""NumPy reference of the op, on `numpy.linalg.svd` in float64. Slow and plain on purpose."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from kdguard.graph_passes.op.attributes import TAIL_GROUPS, Modulation, SvdPerturbAttributes

Array = NDArray[np.floating]
Float64 = NDArray[np.float64]


@dataclass(frozen=True)
class Perturbed:
    """What `SvdPerturb` returns, and what it was made from.

    Attributes:
        Y: like X.
        change: Y - X as written, float64 of X's shape.
        U: singular vectors [N, C, k].
        doubt: how close each position's sign was to flipping, [N, P], relative to the map's size;
            infinite without a tail-driven sign. Implementations may differ where it is tiny.
    """

    Y: Array
    change: Float64
    U: Float64
    doubt: Float64


def _flat(X: Array) -> Float64:
    return X.astype(np.float64).reshape(X.shape[0], X.shape[1], -1)


def top_singular_vectors(F: Float64, rank: int) -> Float64:
    """Left singular vectors of one [C, P] matrix for its `rank` largest singular values, [C, rank].

    Columns beyond the matrix's own rank are zero: there is nothing there to amplify.
    """
    U = np.zeros((F.shape[0], rank))
    vectors, values, _ = np.linalg.svd(F, full_matrices=False)
    genuine = values[:rank] > values[:1] * np.finfo(np.float64).eps * max(F.shape)
    found = vectors[:, :rank][:, genuine]
    U[:, : found.shape[1]] = found
    return U


def top_singular_vectors_of_gram(G: Float64, rank: int) -> Float64:
    """The same from the map's Gram matrix [C, C]: much faster on large maps, and only half as precise."""
    values, vectors = np.linalg.eigh(G)
    values, vectors = values[::-1], vectors[:, ::-1]
    genuine = values[:rank] > max(float(values[0]), 0.0) * np.finfo(np.float64).eps * len(G)
    U = np.zeros((len(G), rank))
    found = vectors[:, :rank][:, genuine]
    U[:, : found.shape[1]] = found
    return U


def _excess(sampled: Float64, U: Float64, attributes: SvdPerturbAttributes) -> float:
    """The gain less one; where adaptive, grown by (all energy / energy of the top k) ^ (adaptive / 2)."""
    top = float(np.sum((U.T @ sampled) ** 2))
    if not attributes.adaptive or not top:
        return attributes.gain - 1
    return (attributes.gain - 1) * (float(np.sum(sampled**2)) / top) ** (attributes.adaptive / 2)


def tail_products(F: Float64, U: Float64, attributes: SvdPerturbAttributes) -> Float64:
    """What decides the sign of each component at each position, [k, P]: it flips where this is positive.

    With four keyed projections t_1..t_4 of the tail (F without its top components) per component:
    min(t_1 t_2, max(t_3, t_4)), positive at 3/8 of the positions of a symmetric distribution.

    Args:
        F: [C, P], the mean already subtracted.
    """
    count = TAIL_GROUPS * attributes.rank
    W = np.resize(np.float32(attributes.pattern), (count, F.shape[0])).astype(np.float64)
    t1, t2, t3, t4 = np.split(W @ (F - U @ (U.T @ F)), TAIL_GROUPS)
    return np.minimum(t1 * t2, np.maximum(t3, t4))


def _one_image(
    F: Float64, sampled: Float64, attributes: SvdPerturbAttributes, strength: float
) -> tuple[Float64, Float64, Float64]:
    mean = sampled.mean(axis=1, keepdims=True) * attributes.centred
    U = top_singular_vectors(sampled - mean, attributes.rank)
    excess = _excess(sampled - mean, U, attributes)
    centred = F - mean
    V = U.T @ centred
    doubt = np.full(F.shape[1], np.inf)
    beyond: float | Float64 = excess
    if attributes.modulation == Modulation.PATTERN:
        beyond = (1 + excess) ** np.resize(np.float32(attributes.pattern), F.shape[1]).astype(np.float64) - 1
    if attributes.modulation == Modulation.TAIL_SIGN:
        products = tail_products(centred, U, attributes)
        doubt = np.abs(products).min(axis=0) / max(float(np.abs(centred).max()), 1e-300)
        beyond = np.where(products > 0, -(1 + excess), 1 + excess) - 1
    Z = strength * beyond * V
    if attributes.coherence:
        size = np.maximum(np.linalg.norm(Z, axis=0), 1e-37)
        Z = Z * np.minimum(1, attributes.coherence * np.linalg.norm(centred, axis=0) / size)
    return U @ Z, U, doubt


def svd_perturb(X: Array, attributes: SvdPerturbAttributes, strength: float = 1.0) -> Perturbed:
    """Amplify the top singular values of every image's feature map (ASVP, arXiv 2510.08925).

    Args:
        X: feature maps [N, C, spatial...], rank 3 to 5, finite.
        strength: 0 leaves X as it is, 1 applies the whole gain; clipped to [0, 1].
    """
    flat, sampled = _flat(X), _flat(X[:, :, :: attributes.stride])
    strength = float(np.clip(strength, 0, 1))
    changes, bases, doubts = zip(
        *(_one_image(F, rows, attributes, strength) for F, rows in zip(flat, sampled, strict=True)), strict=True
    )
    with np.errstate(over="ignore"):
        Y = (flat + np.stack(changes)).reshape(X.shape).astype(X.dtype)
    change = Y.astype(np.float64) - X
    return Perturbed(Y, change, np.stack(bases), np.stack(doubts))


def svd_restore(Y: Array, change: Array) -> Array:
    """Undo `svd_perturb`, given the change that it made."""
    return (Y.astype(np.float64) - change).astype(Y.dtype)
