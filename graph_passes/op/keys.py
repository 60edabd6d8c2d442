"""Keys of the modulations, drawn from a seed and the layer's name."""

from __future__ import annotations

import hashlib

import numpy as np

from kdguard.graph_passes.op.conventions import TAIL_GROUPS, Modulation

MAX_WEIGHTS = 16384
"""More repeat. A key that is shorter than what the signs use gives several of them the same projection where its
length and the number of channels have a factor in common, so it is as long as what it serves."""
UNKNOWN_CHANNELS = 8191
"""Weights for layers of unknown width; a prime, which has a factor in common with none of them."""
POSITIONS = 1021
"""Period of a keyed pattern over positions; a prime, so that it does not line up with the image's width."""


def draw_key(modulation: Modulation, seed: int, layer: str = "", weights: int = UNKNOWN_CHANNELS) -> tuple[float, ...]:
    """What goes into `pattern`.

    Args:
        weights: how many a tail-driven sign uses, 4 x rank x channels; more than `MAX_WEIGHTS` repeat.

    Returns:
        Normal weights for a tail-driven sign, exponents +1 and -1 for a keyed pattern, one zero
        where there is no modulation.
    """
    rng = np.random.default_rng(list(hashlib.sha256(f"{seed} {layer}".encode()).digest()))
    if modulation == Modulation.TAIL_SIGN:
        count = max(TAIL_GROUPS, min(weights, MAX_WEIGHTS))
        return tuple(rng.standard_normal(count).astype(np.float32).tolist())
    if modulation == Modulation.PATTERN:
        return tuple(rng.choice([-1.0, 1.0], POSITIONS).tolist())
    return (0.0,)
