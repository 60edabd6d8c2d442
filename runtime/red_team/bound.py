"""How much an output-only student can lose at most, from how far apart the two teachers' outputs are.

A student trained to convergence on squared differences is the projection of the teacher's outputs onto
what students can be; a projection onto a convex set does not move two points further apart. So the
students differ by at most what the teachers differ by, d, in root mean square over the inputs, and
by the triangle inequality the student of the hardened teacher is at most d further from ground truth.
That is about errors pooled over all images, not about the mean of the images' decibels.
docs/threat-model.md has the derivation and what it takes for granted.
"""

from __future__ import annotations

import math
from collections.abc import Sequence


def rms_from_db(psnr_db: float) -> float:
    """Root mean square error at a PSNR with peak 1."""
    return float(10 ** (-psnr_db / 20))


def pooled_db(scores: Sequence[float]) -> float:
    """PSNR of the mean square error over all images, of their PSNR values."""
    return -10 * math.log10(sum(rms_from_db(score) ** 2 for score in scores) / len(scores))


def drop_bound_db(student_db: float, apart_db: float) -> float:
    """The largest drop in dB of a student at `student_db` whose teachers are `apart_db` apart, all pooled."""
    return 20 * math.log10(1 + rms_from_db(apart_db) / rms_from_db(student_db))
