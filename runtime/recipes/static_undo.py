"""FitNets after a fixed linear map that was fitted to undo the perturbation on a few images."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from kdguard.runtime.recipes.base import TRIED_WEIGHTS, Loot, Maps, Query
from kdguard.runtime.recipes.fitnets import FitNets
from kdguard.runtime.recipes.pre_tap import clean_side

FIT_TILES = 4
RIDGE = 1e-6
"""Share of the mean energy that keeps the fit from dividing by nothing."""


def undo(perturbed: Maps, clean: Maps) -> Maps:
    """The perturbed maps through the affine channel map that takes the first of them to `clean`.

    Args:
        perturbed: [M, F, H, W].
        clean: [m, F, H, W], m <= M, of the first m images.
    """
    channels = perturbed.shape[1]

    def positions(values: Maps) -> np.ndarray:
        return values.transpose(0, 2, 3, 1).reshape(-1, channels).astype(np.float64)

    X, Y = positions(perturbed[: len(clean)]), positions(clean)
    X = np.hstack([X, np.ones((len(X), 1))])
    gram = X.T @ X
    gram[np.diag_indices(channels)] += RIDGE * np.trace(gram[:channels, :channels]) / channels + 1e-30
    M = np.linalg.solve(gram, X.T @ Y)
    undone = np.einsum("mfhw,fg->mghw", perturbed, M[:-1].astype(np.float32), optimize=True)
    return undone + M[-1].astype(np.float32)[None, :, None, None]


def undone(maps: Sequence[Maps]) -> Maps:
    """The tapped map through the affine channel map that a few clean ones gave; `maps` are clean and tapped."""
    clean, perturbed = maps
    return undo(perturbed, clean[:FIT_TILES])


class StaticUndo(FitNets):
    """As `fitnets`, on M F_T + b, the C x C map that fits the clean features of four tiles best; w by validation.

    The attacker who has clean features of a few images, of an earlier release for instance, and the
    hardened file for all others.
    """

    name = "static-undo"
    tier = "T1s"
    source = "linear regression on the perturbed map"
    weights = TRIED_WEIGHTS

    def query(self, loot: Loot) -> Query:
        assert loot.tap is not None
        return Query((clean_side(loot.model, loot.tap), loot.tap), rework=undone)
