"""FitNets after undoing the amplification as well as the spectra allow: SVD of the tap, top k divided by a guess."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from kdguard.runtime.recipes.base import Loot, Maps, Query
from kdguard.runtime.recipes.fitnets import FitNets

RANKS = range(1, 9)
"""Ranks to look for the amplification at."""


def clip_amplified(tapped: Sequence[Maps]) -> Maps:
    """Maps [M, F, H, W] with the amplification that their spectra show taken back."""
    maps = tapped[0]
    spectra = [_spectrum(values) for values in maps]
    rank, gain = estimate_amplification(np.stack([sigma for sigma, _ in spectra]))
    if rank == 0:
        return maps
    clipped = np.empty(maps.shape, np.float32)
    for index, (values, (_, U)) in enumerate(zip(maps, spectra, strict=True)):
        # Taking (1 - 1/h) of the top part away is dividing its singular values by h.
        F, top = values.reshape(len(values), -1), U[:, :rank]
        clipped[index] = (F - (1 - 1 / gain) * (top @ (top.T @ F))).reshape(values.shape)
    return clipped


def _spectrum(values: Maps) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Singular values, descending, and left singular vectors of a map [F, H, W], from its Gram matrix."""
    F = values.reshape(len(values), -1).astype(np.float64)
    energies, U = np.linalg.eigh(F @ F.T)
    return np.sqrt(np.maximum(energies[::-1], 0)), U[:, ::-1]


def estimate_amplification(sigma: NDArray[np.float64]) -> tuple[int, float]:
    """Rank and gain of an amplification, (0, 1.0) where the spectra show none.

    Args:
        sigma: [M, R] singular values per map, descending.
    """
    ratios = sigma[:, :-1] / np.maximum(sigma[:, 1:], 1e-12 * sigma[:, :1] + 1e-30)
    jumps = np.median(ratios, axis=0)
    ranks = [rank for rank in RANKS if rank < len(jumps)]
    if not ranks:
        return 0, 1.0
    excess = {rank: float(jumps[rank - 1] / max(jumps[rank], 1.0)) for rank in ranks}
    best = max(ranks, key=excess.__getitem__)
    return (best, excess[best]) if excess[best] > 1 else (0, 1.0)


class FitNetsSvdClip(FitNets):
    """As `fitnets`, the k largest singular values of every tapped map divided by an estimated gain.

    Rank and gain are read off the spectra: amplification leaves a jump between the k-th singular value
    and the next that is larger than the one after it. k is where the median jump stands out most,
    the gain is by how much. A map without such a jump stays as it is.
    """

    name = "fitnets-svd-clip"
    tier = "T1s"
    source = "FitNets (arXiv 1412.6550) on maps with divided singular values"

    def query(self, loot: Loot) -> Query:
        return Query(self.chosen_taps(loot), rework=clip_amplified)
