"""What a foreign model does not say, found by running it: scale, size multiple, value range."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from kdguard.export.errors import UserError
from kdguard.export.image_pairs import ImagePair
from kdguard.export.image_tensor import image_to_tensor
from kdguard.export.model_card import ModelCard
from kdguard.export.tasks import Image, get_task
from kdguard.runtime.analysis.crops import centre_crop
from kdguard.runtime.metrics import check_scorable, psnr

if TYPE_CHECKING:
    from kdguard.runtime.session import RestorationSession

PROBE_MULTIPLES = (1, 2, 4, 8, 16, 32, 64)
BAKED_SIDES = (64, 128, 256, 512, 48, 96, 192, 224, 384)
"""Square inputs that exports are usually traced with; those with attention often run on nothing else."""
VALUE_RANGES = ((0.0, 1.0), (-1.0, 1.0), (0.0, 255.0))
RANGE_PAIRS = 2
"""Pairs that the value range is judged on; the right one wins by many decibels."""
CLEARLY_BETTER_DB = 0.01
"""What another range must gain on [0, 1]: networks without biases answer alike in all of them."""
CLOSE_CALL_DB = 0.5
"""A range that comes this close to the one that is taken is pointed out to the user."""

_PROBE_SIZE = 65
_RANGE_SIDE = 256


def find_geometry(
    session: RestorationSession, multiples: Sequence[int] = PROBE_MULTIPLES, where: str = ""
) -> ModelCard:
    """The session's card with the smallest size multiple that the model accepts, and its scale.

    Where none runs, the usual sizes that exports are traced with are tried: the model takes one only.
    Raises:
        UserError: the model is no image-to-image model for any of these multiples.
    """
    card = session.card
    multiples = (1,) if card.fixed_size else multiples
    attempts = [card.model_copy(update={"size_multiple": multiple}) for multiple in multiples]
    if not card.fixed_size:
        attempts += [card.model_copy(update={"fixed_size": (side, side)}) for side in BAKED_SIDES]
    problem = ""
    for attempt in attempts:
        # Oblong, or a model of one square size would pass for one that wants multiples.
        tensor = image_to_tensor(_ramp(_PROBE_SIZE, _PROBE_SIZE + attempt.size_multiple, card.channels), attempt)
        try:
            output = session.run(tensor)[0]
        except UserError as error:
            problem = problem or str(error)
            continue
        scales = {output.shape[a] / tensor.shape[a] for a in card.spatial_axes} if output.ndim == 4 else set()
        if len(scales) == 1 and (scale := scales.pop()) >= 1 and scale == int(scale):
            return attempt.model_copy(update={"scale": int(scale)})
        problem = problem or f"input {list(tensor.shape)} gives output {list(output.shape)}"
    tried = f"any size multiple up to {multiples[-1]}" if len(multiples) > 1 else f"size multiple {multiples[0]}"
    if card.fixed_size:
        tried = f"its fixed size of {card.fixed_size[1]}x{card.fixed_size[0]}"
    raise UserError(f"{where} does not behave like an image-to-image model for {tried}: {problem}")


def _ramp(height: int, width: int, channels: int) -> Image:
    """A smooth picture: uniform noise makes some published networks explode."""
    rows, columns = (np.linspace(0, 1, side, dtype=np.float32) for side in (height, width))
    return np.repeat(np.add.outer(rows, columns)[..., None] / 2, channels, axis=-1).astype(np.float32)


def score_value_ranges(session: RestorationSession, pairs: Sequence[ImagePair]) -> dict[tuple[float, float], float]:
    """Mean PSNR against ground truth in dB for every candidate range; -inf where outputs are not finite.

    Args:
        session: its card is right but for the value range.
        pairs: a few; the centre of each is used.

    Raises:
        UserError: an image is too small to score, or the model fails on it.
    """
    card, scores = session.card, {}
    task = get_task(card.task)
    pieces = [centre_crop(pair, card, _RANGE_SIDE) for pair in pairs]
    check_scorable(pieces, task, card.scale)
    try:
        for value_range in VALUE_RANGES:
            session.card = card.model_copy(update={"value_range": value_range})
            outputs = [session.restore(piece.degraded) for piece in pieces]
            finite = all(np.isfinite(output).all() for output in outputs)
            values = [psnr(o, p.clean, task, card.scale) for o, p in zip(outputs, pieces, strict=True) if finite]
            scores[value_range] = float(np.mean(values)) if finite else float("-inf")
    finally:
        session.card = card
    return scores


def best_value_range(scores: dict[tuple[float, float], float]) -> tuple[float, float]:
    """The range with the highest score; [0, 1] where no other is clearly better."""
    usual = VALUE_RANGES[0]
    best = max(scores, key=lambda value_range: scores[value_range])
    return best if scores[best] > scores[usual] + CLEARLY_BETTER_DB else usual


def close_calls(scores: dict[tuple[float, float], float], taken: tuple[float, float]) -> list[tuple[float, float]]:
    """The other ranges that score about as well as the one that was taken, the runner-up first."""
    near = [other for other, score in scores.items() if other != taken and score > scores[taken] - CLOSE_CALL_DB]
    return sorted(near, key=lambda value_range: -scores[value_range])
