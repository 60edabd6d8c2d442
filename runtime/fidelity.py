"""The fidelity gates: does the hardened model still do its job, and is it still the same model?

Two gates, always. Loss against ground truth within the budget alone is signed and can be gamed:
some perturbations raise the measured PSNR while changing the output grossly. So the hardened
output must also stay close to the clean teacher's: an error that is uncorrelated with the
teacher's own costs 0.1 dB when it lies 16.3 dB below it.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from pydantic import BaseModel, Field

from kdguard.export.errors import UserError
from kdguard.export.image_pairs import ImagePair
from kdguard.export.tasks import Image, get_task
from kdguard.runtime.metrics import psnr, ssim
from kdguard.runtime.session import RestorationSession

BETWEEN_MARGIN_DB = 16.0
MIN_SIDE = 11
"""SSIM's window: smaller images cannot be scored."""


class Quality(BaseModel):
    """Mean over the images."""

    psnr: float = Field(description="dB")
    ssim: float


class FidelityReport(BaseModel):
    """What `kdguard verify` writes; the field names are a contract."""

    n: int = Field(description="images compared")
    teacher: Quality
    hardened: Quality
    delta_psnr_db: float = Field(description="teacher minus hardened")
    delta_ssim: float = Field(description="teacher minus hardened")
    psnr_between_db: float = Field(description="hardened against clean teacher, 200 if identical")
    psnr_between_floor_db: float = Field(description="PSNR of the teacher + 16")
    budget_db: float
    finite: bool = Field(description="no NaN or infinity in any output")
    max_abs_difference: float = Field(description="worst pixel, in units of the value range")
    within_budget: bool = Field(description="both gates, and finite")
    provider: str = Field(description="execution provider that ran")

    def failures(self) -> list[str]:
        """One line per gate that failed."""
        lines = []
        if not self.finite:
            lines.append("the outputs hold NaN or infinity")
        if not self.delta_psnr_db <= self.budget_db:
            lines.append(f"loss {self.delta_psnr_db:.3f} dB is over the budget of {self.budget_db:g} dB")
        if not self.psnr_between_db >= self.psnr_between_floor_db:
            lines.append(
                f"hardened against clean is {self.psnr_between_db:.1f} dB, under the floor of "
                f"{self.psnr_between_floor_db:.1f} dB"
            )
        return lines


@dataclass(frozen=True)
class RestoredImage:
    """One test image through both models, for the report; [H, W, C], not clipped."""

    pair: ImagePair
    teacher: Image
    hardened: Image


def compare_outputs(teacher: list[Image], hardened: list[Image]) -> tuple[bool, float]:
    """Finite everywhere, and the worst absolute difference, both by Polygraphy's comparator."""
    from polygraphy.comparator import Comparator, IterationResult, RunResults, SimpleCompareFunc
    from polygraphy.logger import G_LOGGER

    def results(images: list[Image], name: str) -> list[IterationResult]:
        return [IterationResult(OrderedDict(restored=image), runner_name=name) for image in images]

    # Polygraphy also computes statistics of outputs that hold infinities, with warnings.
    with G_LOGGER.verbosity(G_LOGGER.CRITICAL), np.errstate(invalid="ignore"):
        run = RunResults([("teacher", results(teacher, "teacher")), ("hardened", results(hardened, "hardened"))])
        if not Comparator.validate(run, check_inf=True, check_nan=True):
            return False, float("inf")
        accuracy = Comparator.compare_accuracy(run, compare_func=SimpleCompareFunc(check_error_stat="max"))
    (comparison,) = accuracy[0].values()
    return True, max(float(iteration["restored"].max_absdiff) for iteration in comparison)


def measure_fidelity(
    teacher: RestorationSession,
    hardened: RestorationSession,
    pairs: list[ImagePair],
    task_name: str | None,
    budget_db: float = 0.1,
    on_image: Callable[[], None] = lambda: None,
) -> tuple[FidelityReport, list[RestoredImage]]:
    """Run both models over the pairs and judge the difference.

    Args:
        budget_db: PSNR against ground truth that the hardened model may lose, in dB.
        on_image: called after every image, for a progress bar.

    Returns:
        The report, and the outputs it was made from.

    Raises:
        UserError: an image is smaller than SSIM's window, or the models restore to unequal sizes.
    """
    task, scale = get_task(task_name), teacher.card.scale
    restored = []
    for pair in pairs:
        if min(pair.clean.shape[:2]) - 2 * task.border(scale) < MIN_SIDE:
            raise UserError(
                f"{pair.name!r} is {pair.clean.shape[1]}x{pair.clean.shape[0]}: too small to score, SSIM needs "
                f"{MIN_SIDE} pixels on a side after the border crop; leave it out"
            )
        outputs = [session.restore(pair.degraded) for session in (teacher, hardened)]
        for output, name in zip(outputs, ("teacher", "hardened model"), strict=True):
            if output.shape != pair.clean.shape:
                raise UserError(
                    f"{pair.name!r}: the {name} restores {list(pair.degraded.shape)} to {list(output.shape)}, and "
                    f"the clean image is {list(pair.clean.shape)}; is this the right model and task?"
                )
        restored.append(RestoredImage(pair, *outputs))
        on_image()

    finite, worst = compare_outputs([r.teacher for r in restored], [r.hardened for r in restored])
    if not all(np.isfinite(r.teacher).all() for r in restored):
        raise UserError("the clean teacher itself gives NaN or infinity on these images; check range and layout")

    def quality(which: str) -> Quality:
        images = [(np.nan_to_num(getattr(r, which)), r.pair.clean) for r in restored]
        return Quality(
            psnr=float(np.mean([psnr(image, clean, task, scale) for image, clean in images])),
            ssim=float(np.mean([ssim(image, clean, task, scale) for image, clean in images])),
        )

    clean_quality, hard_quality = quality("teacher"), quality("hardened")
    between = float(np.mean([psnr(np.nan_to_num(r.hardened), r.teacher, task, scale, clip=False) for r in restored]))
    floor = clean_quality.psnr + BETWEEN_MARGIN_DB
    delta = clean_quality.psnr - hard_quality.psnr
    report = FidelityReport(
        n=len(restored),
        teacher=clean_quality,
        hardened=hard_quality,
        delta_psnr_db=delta,
        delta_ssim=clean_quality.ssim - hard_quality.ssim,
        psnr_between_db=between,
        psnr_between_floor_db=floor,
        budget_db=budget_db,
        finite=finite,
        max_abs_difference=worst if finite else 0.0,
        within_budget=finite and delta <= budget_db and between >= floor,
        provider=hardened.provider,
    )
    return report, restored
