"""FitNets after dividing the top singular values of the tap by the gain that amplified them, as stated or estimated."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import numpy as np
from numpy.typing import NDArray

from kdguard.graph_passes.inventory import hardened_layers
from kdguard.graph_passes.op import SvdPerturbAttributes
from kdguard.runtime.recipes.base import TRIED_WEIGHTS, Loot, Maps, Query
from kdguard.runtime.recipes.fitnets import FitNets

MAX_RANK = 8
"""Amplifications are looked for up to this rank, or half the channels: spectra end in jumps of their own."""

CLEAR_JUMP = 3.0
"""A jump counts where it is so many times the largest other one; the spectra of clean maps fall more evenly."""

NOTHING = 1e-5
"""Singular values below this share of the first are rounding errors; a jump down to them shows no gain."""


def clip_estimated(tapped: Sequence[Maps]) -> Maps:
    """Maps [M, F, H, W] with the amplification that their spectra show taken back; as they are where none shows."""
    maps = tapped[0]
    # Less the means, which alone make the first singular value of a clean map stand out.
    spectra = [_svd(_matrix(values, centred=True))[0] for values in maps]
    rank, gain = estimate_amplification(np.stack(spectra))
    return divided(maps, rank, gain, centred=True) if rank else maps


def clip_stated(tapped: Sequence[Maps], op: SvdPerturbAttributes) -> Maps:
    """Maps [M, F, H, W] with the amplification that a node's attributes state taken back.

    Up to its variation over positions and images, which takes more than a gain to undo.
    """
    return divided(tapped[0], op.rank, op.gain, op.centred)


def divided(maps: Maps, rank: int, gain: float, centred: bool) -> Maps:
    """Maps [M, F, H, W], the top `rank` singular values of each, or of it less its channel means, over `gain`."""
    clipped = np.empty(maps.shape, np.float32)
    for index, values in enumerate(maps):
        F = _matrix(values, centred)
        top = _svd(F)[1][:, :rank]
        # Taking (1 - 1/h) of the top part away is dividing its singular values by h.
        clipped[index] = values - ((1 - 1 / gain) * top @ (top.T @ F)).reshape(values.shape)
    return clipped


def _matrix(values: Maps, centred: bool) -> NDArray[np.float64]:
    """[F, H * W] of a map [F, H, W], less its channel means where `centred`."""
    F = values.reshape(len(values), -1).astype(np.float64)
    return F - F.mean(axis=1, keepdims=True) if centred else F


def _svd(F: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Singular values, descending, and left singular vectors of a matrix, from its Gram matrix."""
    energies, U = np.linalg.eigh(F @ F.T)
    return np.sqrt(np.maximum(energies[::-1], 0)), U[:, ::-1]


def estimate_amplification(sigma: NDArray[np.float64]) -> tuple[int, float]:
    """Rank and gain of an amplification, (0, 1.0) where the spectra show none.

    Args:
        sigma: [M, R] singular values per map, descending.
    """
    there = sigma[:, 1:] > NOTHING * sigma[:, :1]
    ratios = np.where(there, sigma[:, :-1] / np.where(there, sigma[:, 1:], 1), 1)
    jumps = np.median(ratios, axis=0)[: min(MAX_RANK, sigma.shape[1] // 2)]
    if len(jumps) < 2:
        return 0, 1.0
    rank = int(jumps.argmax()) + 1
    gain = float(jumps[rank - 1] / np.delete(jumps, rank - 1).max())
    return (rank, gain) if gain >= CLEAR_JUMP else (0, 1.0)


class FitNetsSvdClip(FitNets):
    """As `fitnets`, the k largest singular values of every tapped map divided by a gain; w by validation.

    A node of ours states rank and gain in its attributes. Elsewhere they are estimated: k is where the
    median jump from one singular value to the next is largest, the gain by how much it exceeds the
    others; a map without a clear jump stays as it is.
    """

    name = "fitnets-svd-clip"
    tier = "T1s"
    source = "FitNets (arXiv 1412.6550) on maps with divided singular values"
    weights = TRIED_WEIGHTS

    def query(self, loot: Loot) -> Query:
        for layer in hardened_layers(loot.model):
            if layer.layer == loot.tap:
                return Query(self.chosen_taps(loot), rework=partial(clip_stated, op=layer.op))
        return Query(self.chosen_taps(loot), rework=clip_estimated)
