"""How much an output-only student can lose at most, from how far apart the two teachers' outputs are.

A student trained to convergence on squared differences is the projection of the teacher's outputs onto
what students can be; a projection onto a convex set does not move two points further apart. So the
students differ by at most what the teachers differ by, d, in root mean square over the inputs, and
by the triangle inequality the student of the hardened teacher is at most d further from ground truth.
docs/threat-model.md has the derivation and what it takes for granted.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import onnx

from kdguard.export.image_pairs import ImagePair
from kdguard.export.model_card import ModelCard
from kdguard.export.tasks import get_task
from kdguard.runtime.metrics import psnr
from kdguard.runtime.session import RestorationSession
from kdguard.runtime.side_by_side import side_by_side
from kdguard.runtime.terminal import progress_bar


def rms_from_db(psnr_db: float) -> float:
    """Root mean square error at a PSNR with peak 1."""
    return float(10 ** (-psnr_db / 20))


def outputs_apart_db(models: Sequence[onnx.ModelProto], card: ModelCard, pairs: Sequence[ImagePair]) -> float:
    """PSNR between two models' outputs in the task's convention, of their pooled mean square difference."""
    task, errors = get_task(card.task), []
    sessions = [RestorationSession(model, card) for model in models]
    with progress_bar("comparing the two teachers", len(pairs)) as advance:
        answers = side_by_side(sessions, list(pairs), lambda session, pair: session.restore(pair.degraded))
        for first, second in answers:
            errors.append(rms_from_db(psnr(np.nan_to_num(second), first.clip(0, 1), task, card.scale)) ** 2)
            advance()
    return -10 * math.log10(float(np.mean(errors)))


def drop_bound_db(student_db: float, apart_db: float) -> float:
    """The largest drop in dB of a student at `student_db` whose teachers are `apart_db` apart."""
    return 20 * math.log10(1 + rms_from_db(apart_db) / rms_from_db(student_db))
