"""NumPy reference of the op, on `numpy.linalg.svd` in float64. Slow and plain on purpose."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from kdguard.graph_passes.op.conventions import TAIL_GROUPS, UNDO_SHARE, Modulation, OpAttributes

Array = NDArray[np.floating]
Float64 = NDArray[np.float64]


@dataclass(frozen=True)
class Perturbed:
    """What `SvdPerturb` returns, and what it was made from.

    Attributes:
        Y: like X.
        change: Y - X as written, float64 of X's shape.
        U: singular vectors [N, C, k].
        doubt: how close each position's sign was to flipping, [N, P], relative to the largest that a
            keyed projection of this map could be; infinite without a tail-driven sign. Implementations
            may differ where it is tiny.
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


def _excess(sampled: Float64, U: Float64, attributes: OpAttributes) -> float:
    """The gain less one; where adaptive, grown by (all energy / energy of the top k) ^ (adaptive / 2)."""
    top = float(np.sum((U.T @ sampled) ** 2))
    if not attributes.adaptive or not top:
        return attributes.gain - 1
    return (attributes.gain - 1) * (float(np.sum(sampled**2)) / top) ** (attributes.adaptive / 2)


def _key(attributes: OpAttributes) -> Float64:
    """The pattern as a file gives it back: floats have 32 bits there."""
    return np.array(attributes.pattern, np.float32).astype(np.float64)


def tail_weights(attributes: OpAttributes, channels: int) -> Float64:
    """The key as weights over channels, [4 k, C]: the numbers of `pattern` again and again, row by row."""
    count = TAIL_GROUPS * attributes.rank
    return np.resize(_key(attributes), (count, channels))


def tail_margins(F: Float64, U: Float64, attributes: OpAttributes) -> Float64:
    """What decides the sign of each component at each position, [k, P]: it flips where this is positive.

    With four keyed projections t_1..t_4 of the tail (F without its top components) per component it
    flips where t_1 t_2 > 0 and max(t_3, t_4) > 0: at 3/8 of the positions where the four are symmetric
    and independent. The size says by how much they would have to differ for the other decision.

    Args:
        F: [C, P], the mean already subtracted.
    """
    t1, t2, t3, t4 = np.split(tail_weights(attributes, F.shape[0]) @ (F - U @ (U.T @ F)), TAIL_GROUPS)
    same_sign = np.sign(t1 * t2) * np.minimum(np.abs(t1), np.abs(t2))
    return np.minimum(same_sign, np.maximum(t3, t4))


def _one_image(
    F: Float64, sampled: Float64, attributes: OpAttributes, strength: float
) -> tuple[Float64, Float64, Float64]:
    mean = sampled.mean(axis=1, keepdims=True) * attributes.centred
    U = top_singular_vectors(sampled - mean, attributes.rank)
    excess = _excess(sampled - mean, U, attributes)
    centred = F - mean
    V = U.T @ centred
    doubt = np.full(F.shape[1], np.inf)
    beyond: float | Float64 = excess
    if attributes.modulation == Modulation.PATTERN:
        beyond = (1 + excess) ** np.resize(_key(attributes), F.shape[1]) - 1
    if attributes.modulation == Modulation.TAIL_SIGN:
        margins = tail_margins(centred, U, attributes)
        weight = np.linalg.norm(tail_weights(attributes, F.shape[0]), axis=1).max()
        largest = weight * np.linalg.norm(centred, axis=0).max()
        doubt = np.abs(margins).min(axis=0) / max(float(largest), 1e-300)
        beyond = np.where(margins > 0, -(1 + excess), 1 + excess) - 1
    Z = strength * beyond * V
    if attributes.coherence:
        size = np.maximum(np.linalg.norm(Z, axis=0), 1e-37)
        Z = Z * np.minimum(1, attributes.coherence * np.linalg.norm(centred, axis=0) / size)
    return U @ Z, U, doubt


def svd_perturb(X: Array, attributes: OpAttributes, strength: float = 1.0) -> Perturbed:
    """Amplify the top singular values of every image's feature map (ASVP, arXiv 2510.08925).

    Args:
        X: feature maps [N, C, spatial...], rank 3 to 5, finite; float32 or 16 bits.
        strength: 0 leaves X as it is, 1 applies the whole gain; clipped to [0, 1].
    """
    flat, sampled = _flat(X), _flat(X[:, :, :: attributes.stride])
    strength = float(np.clip(strength, 0, 1))
    changes, bases, doubts = zip(
        *(_one_image(F, rows, attributes, strength) for F, rows in zip(flat, sampled, strict=True)), strict=True
    )
    with np.errstate(over="ignore", invalid="ignore"):
        Y = (flat + np.stack(changes)).reshape(X.shape).astype(X.dtype)
        if X.dtype.itemsize == 2:
            Y = np.where(_can_be_undone(X, Y), Y, X)
    change = Y.astype(np.float64) - X.astype(np.float64)
    return Perturbed(Y, change, np.stack(bases), np.stack(doubts))


def _can_be_undone(X: Array, Y: Array) -> NDArray[np.bool_]:
    """Whether float32 holds the change of a 16-bit element well enough to take it back exactly."""
    read, written = X.astype(np.float32), Y.astype(np.float32)
    back = written - (written - read)
    return np.asarray(np.abs(back - read) <= UNDO_SHARE * np.abs(read))


def svd_restore(Y: Array, change: Array) -> Array:
    """Undo `svd_perturb`, given the change that it made."""
    return (Y.astype(np.float64) - change).astype(Y.dtype)
