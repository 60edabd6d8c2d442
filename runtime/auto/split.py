"""Dividing the calibration images: what is fitted on, what gains are scanned on, what the gates are checked on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from kdguard.export.image_pairs import ImagePair
from kdguard.export.model_card import ModelCard
from kdguard.export.tasks import get_task
from kdguard.runtime.analysis import Analysis
from kdguard.runtime.analysis.crops import centre_crop, centre_crops, spread
from kdguard.runtime.metrics import psnr
from kdguard.runtime.session import RestorationSession

FIT_IMAGES, TRIAL_IMAGES, CHECK_IMAGES = 10, 2, 4
TRIAL_COST, FIT_COST, CHECK_COST = 1.2e10, 2.4e10, 1.2e11
"""What one run over an image may cost, in multiply-adds; crops are as large as that allows."""
MIN_SIDE, MAX_SIDE, MAX_CHECK_SIDE = 64, 320, 1280
CROP_LOSS_DB = 1.0
"""What a crop may cost the teacher, by statistics over the whole image that it lacks, before larger ones are used."""


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


def split(pairs: Sequence[ImagePair], card: ModelCard, analysis: Analysis, teacher: RestorationSession) -> Split:
    """Every fourth image is for the gates, half of the rest for fitting; deterministic.

    Images for fitting and scanning are small crops, unless the teacher does worse on them than on the
    same part of a whole image: one that normalises over the image is another model on every crop.
    """
    disjoint = len(pairs) >= 4
    check = list(pairs[3::4]) if disjoint else list(pairs)
    rest = [pair for index, pair in enumerate(pairs) if index % 4 != 3] if disjoint else list(pairs)
    fit, trial = (rest[::2], rest[1::2]) if len(rest) > 1 else (rest, rest)
    trial_side, fit_side = (_side(analysis, cost, MAX_SIDE) for cost in (TRIAL_COST, FIT_COST))
    check_side = _side(analysis, CHECK_COST, MAX_CHECK_SIDE)
    on_trial = spread(trial, TRIAL_IMAGES)
    losses = [crop_loss_db(teacher, centre_crop(pair, card, check_side), trial_side) for pair in on_trial]
    if np.mean(losses) > CROP_LOSS_DB:
        trial_side = fit_side = check_side
    return Split(
        centre_crops(fit, card, FIT_IMAGES, fit_side),
        centre_crops(on_trial, card, TRIAL_IMAGES, trial_side),
        centre_crops(check, card, CHECK_IMAGES, check_side),
        disjoint,
    )


def crop_loss_db(teacher: RestorationSession, pair: ImagePair, side: int) -> float:
    """PSNR that the teacher loses on the middle of an image where it sees nothing else, in dB."""
    card = teacher.card
    crop = centre_crop(pair, card, side)
    if crop.degraded.shape == pair.degraded.shape:
        return 0.0
    whole = centre_crop(replace(pair, clean=teacher.restore(pair.degraded)), card, side).clean
    task = get_task(card.task)
    whole_psnr, crop_psnr = (
        psnr(np.nan_to_num(output), crop.clean, task, card.scale) for output in (whole, teacher.restore(crop.degraded))
    )
    return whole_psnr - crop_psnr
