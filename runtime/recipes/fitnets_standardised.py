"""FitNets on standardised features: what an attacker does first when a loss explodes."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from kdguard.runtime.recipes.base import TRIED_WEIGHTS, Loot, Maps, Query
from kdguard.runtime.recipes.fitnets import FitNets


def standardised(maps: Sequence[Maps]) -> Maps:
    """[M, F, H, W] with mean 0 and deviation 1 per channel; constant channels become zero."""
    values = maps[0]
    mean = values.mean(axis=(0, 2, 3), keepdims=True, dtype=np.float64)
    deviation = values.std(axis=(0, 2, 3), keepdims=True, dtype=np.float64)
    return ((values - mean) / np.where(deviation > 0, deviation, 1)).astype(np.float32)


class FitNetsStandardised(FitNets):
    """As `fitnets`, each channel of the tapped map less its mean, over its standard deviation; w by validation."""

    name = "fitnets-standardised"
    tier = "T1s"
    source = "FitNets (arXiv 1412.6550) with standardised features"
    weights = (*TRIED_WEIGHTS, 0.02)

    def query(self, loot: Loot) -> Query:
        return Query(self.chosen_taps(loot), rework=standardised)
