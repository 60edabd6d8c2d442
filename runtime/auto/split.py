"""Dividing the calibration images: what is fitted on, what gains are scanned on, what the gates are checked on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from kdguard.export.image_pairs import ImagePair
from kdguard.export.model_card import ModelCard
from kdguard.runtime.analysis import Analysis
from kdguard.runtime.analysis.crops import centre_crops, spread

FIT_IMAGES, TRIAL_IMAGES, CHECK_IMAGES = 10, 2, 4
TRIAL_COST, FIT_COST, CHECK_COST = 1.2e10, 2.4e10, 1.2e11
"""What one run over an image may cost, in multiply-adds; crops are as large as that allows."""
MIN_SIDE, MAX_SIDE = 64, 320


@dataclass(frozen=True)
class Split:
    """Calibration images by use.

    Attributes:
        fit: crops for statistics.
        trial: crops for scanning gains.
        check: images or large crops for the gates.
        disjoint: whether no image is in two of them; with fewer than four images all three share.
    """

    fit: list[ImagePair]
    trial: list[ImagePair]
    check: list[ImagePair]
    disjoint: bool


def _side(analysis: Analysis, limit: float, most: int) -> int:
    axes = sorted(analysis.whole_shape)[-2:]
    pixels = axes[0] * axes[1]
    return int(min(most, max(MIN_SIDE, (limit / max(analysis.cost, 1.0) * pixels) ** 0.5)))


def split(pairs: Sequence[ImagePair], card: ModelCard, analysis: Analysis) -> Split:
    """Every fourth image is for the gates, half of the rest for fitting; deterministic."""
    disjoint = len(pairs) >= 4
    check = list(pairs[3::4]) if disjoint else list(pairs)
    rest = [pair for index, pair in enumerate(pairs) if index % 4 != 3] if disjoint else list(pairs)
    fit, trial = (rest[::2], rest[1::2]) if len(rest) > 1 else (rest, rest)
    return Split(
        centre_crops(fit, card, FIT_IMAGES, _side(analysis, FIT_COST, MAX_SIDE)),
        centre_crops(trial, card, TRIAL_IMAGES, _side(analysis, TRIAL_COST, MAX_SIDE)),
        centre_crops(spread(check, CHECK_IMAGES), card, CHECK_IMAGES, _side(analysis, CHECK_COST, 4 * MAX_SIDE)),
        disjoint,
    )
