"""What calibration images must leave of every gate for images that are different."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from kdguard.runtime.compensation.bench import Outcome
from kdguard.runtime.fidelity import WORST_MARGIN_DB, FidelityReport

# Where the numbers come from. An error that is uncorrelated with the teacher's own and lies m dB below it costs
# 10 log10(1 + 10^(-m / 10)) dB: 0.10 dB at m = 16.3, which is the second gate's 16; 0.08 at 17.5, 0.27 at 12 and
# 0.41 at the gate's 10. Against the truth, an error 16 dB below that of a teacher of p dB lies at p + 16 dB: 53.5 dB
# still keep that gate where a teacher reaches 37.5 dB, 56 dB where it reaches 40. How far to stay away from the gates
# (1.5 and 2 dB, then 0.5; shares of the budget and of SSIM), for which teachers to reserve more and where a teacher
# counts as weak were set by hand: no measurement stands behind these values beyond that the teachers of
# benchmarks/zoo_harden.py keep both gates on test pairs.
TRIAL_MARGIN_DB, TRIAL_WORST_MARGIN_DB = 17.5, 12.0
"""Asked of trial images, hardened against clean over the teacher's own PSNR, mean and worst; the gates ask for 16
and 10."""
TRIAL_SHARE, TRIAL_SSIM = 0.6, 0.0006
"""Of the budget, and the SSIM, that may be lost on trial images."""
CHECK_MARGIN_DB, CHECK_SHARE, CHECK_SSIM = 0.5, 0.75, 0.0007
"""The same on the images of the last check."""
MIN_BETWEEN_DB, WEAK_MIN_BETWEEN_DB, WEAK_TEACHER_DB = 53.5, 56.0, 25.0
"""Asked of hardened against clean whatever the teacher's own PSNR, and more where that is low: on images that resemble
its training set more than these do, it makes smaller errors, and what hides behind large ones here would show there."""
NOT_FINITE = 0.01


@dataclass(frozen=True)
class Reserve:
    """How far calibration has to stay away from the gates.

    Attributes:
        budget_db: PSNR that the hardened model may lose.
        absolute: whether hardened against clean has a least value of its own, beside the one that the
            teacher's PSNR asks for.
    """

    budget_db: float
    absolute: bool = True

    def least_between(self, own_psnr: float) -> float:
        """PSNR that hardened against clean must have where the teacher has this one against the truth, in dB."""
        if not self.absolute:
            return 0.0
        return WEAK_MIN_BETWEEN_DB if own_psnr < WEAK_TEACHER_DB else MIN_BETWEEN_DB

    def on_trial(self, outcome: Outcome) -> float:
        """By what factor the error energy may grow on trial images; below 1, or NaN, it is too large."""
        slacks = (
            outcome.margin_db - TRIAL_MARGIN_DB,
            outcome.worst_margin_db - TRIAL_WORST_MARGIN_DB,
            outcome.between_db - self.least_between(outcome.between_db - outcome.margin_db),
        )
        return self._room(slacks, (outcome.loss_db, TRIAL_SHARE), (outcome.ssim_loss, TRIAL_SSIM))

    def accepts(self, outcome: Outcome) -> bool:
        """Whether a gain keeps its distance from every gate on trial images."""
        return self.on_trial(outcome) >= 1

    def on_check(self, report: FidelityReport) -> float:
        """The same factor on the images of the last check."""
        if not report.finite:
            return NOT_FINITE
        floor = max(report.psnr_between_floor_db + CHECK_MARGIN_DB, self.least_between(report.teacher.psnr))
        slacks = (report.psnr_between_db - floor, report.worst_margin_db - WORST_MARGIN_DB - CHECK_MARGIN_DB)
        return self._room(slacks, (report.delta_psnr_db, CHECK_SHARE), (report.delta_ssim, CHECK_SSIM))

    def _room(self, slacks: tuple[float, ...], psnr: tuple[float, float], ssim: tuple[float, float]) -> float:
        (loss, share), (ssim_loss, ssim_limit) = psnr, ssim
        ratios = [10 ** (slack / 10) for slack in slacks]
        ratios += [
            limit / lost for lost, limit in ((loss, share * self.budget_db), (ssim_loss, ssim_limit)) if lost > 0
        ]
        return float(np.min(ratios))
