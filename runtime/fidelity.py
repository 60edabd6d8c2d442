"""The fidelity gates: does the hardened model still do its job, and is it still the same model?

Two gates, always. Loss against ground truth within the budget alone is signed and can be gamed:
some perturbations raise the measured PSNR while changing the output grossly. So the hardened
output must also stay close to the clean teacher's: an error that is uncorrelated with the
teacher's own costs 0.1 dB when it lies 16.3 dB below it. That holds on average, and no single
image may fall far behind it: a mean of decibels forgives one ruined image among many good ones.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, Field

from kdguard.export.errors import UserError
from kdguard.export.image_pairs import ImagePair
from kdguard.export.model_card import ModelCard
from kdguard.export.tasks import Image, Task, get_task
from kdguard.runtime.metrics import check_scorable, psnr, ssim
from kdguard.runtime.side_by_side import Session, side_by_side
from kdguard.runtime.wording import closeness

BETWEEN_MARGIN_DB = 16.0
WORST_MARGIN_DB = 10.0
"""What every single image must keep; an uncorrelated error 10 dB below the teacher's costs 0.4 dB."""
OWN_PSNR_CEILING_DB = 80.0
"""A teacher that is right to within rounding, on a white or black frame say, asks for no more than this
plus the margin: fp32 cannot give 200 dB."""
MAX_BUDGET_DB = 100.0
ROUNDING_DB = 1e-4
"""Loss that is rounding and no loss: a budget of 0 asks for the same quality, not for the same bits."""


class Restorer(Session, Protocol):
    """What measuring needs of a session."""

    card: ModelCard

    @property
    def provider(self) -> str:
        """The execution provider that really runs."""
        ...

    @property
    def kernels(self) -> str:
        """What runs kdguard's op: `native`, `function`, or `none` where the model does not hold it."""
        ...

    def restore(self, degraded: Image) -> Image:
        """Restore one image [H, W, C] in [0, 1]."""
        ...


class Quality(BaseModel):
    """Of one image, or the mean over several."""

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
    psnr_between_floor_db: float = Field(description="PSNR of the teacher (no image above 80) + 16")
    worst_margin_db: float = Field(
        description="smallest over the images of hardened against clean minus the teacher's PSNR; at least 10"
    )
    budget_db: float
    finite: bool = Field(description="no NaN or infinity in any output")
    max_abs_difference: float = Field(description="worst pixel, in units of the value range")
    within_budget: bool = Field(description="both gates, and finite")
    provider: str = Field(description="execution provider that ran")
    kernels: str = Field(
        description="what ran the op: native, function (the one in the file), or none where the model does not hold it"
    )

    @property
    def keeps_budget(self) -> bool:
        """The first gate."""
        return self.delta_psnr_db <= self.budget_db + ROUNDING_DB

    def failures(self) -> list[str]:
        """One line per gate that failed."""
        lines = []
        if not self.finite:
            lines.append("the outputs hold NaN or infinity")
        if not self.keeps_budget:
            lines.append(f"loss {self.delta_psnr_db:.3f} dB is over the budget of {self.budget_db:g} dB")
        if not self.psnr_between_db >= self.psnr_between_floor_db:
            lines.append(
                f"hardened against clean is {self.psnr_between_db:.1f} dB, under the floor of "
                f"{self.psnr_between_floor_db:.1f} dB"
            )
        if not self.worst_margin_db >= WORST_MARGIN_DB:
            lines.append(
                f"on its worst image the hardened model is {closeness(self.worst_margin_db)}, at least "
                f"{WORST_MARGIN_DB:g} dB closer is asked for"
            )
        return lines


@dataclass(frozen=True)
class RestoredImage:
    """One test image through both models, for the report; [H, W, C], not clipped."""

    pair: ImagePair
    teacher: Image
    hardened: Image


def check_budget(budget_db: float) -> None:
    """Raise where a budget makes no sense.

    Raises:
        UserError: negative, NaN or beyond `MAX_BUDGET_DB`.
    """
    if not 0 <= budget_db <= MAX_BUDGET_DB:
        raise UserError(f"--budget-db {budget_db:g}: give 0 to {MAX_BUDGET_DB:g} dB, 0.1 is usual")


def refuse_non_finite(pair: ImagePair, values: NDArray[np.floating]) -> None:
    """Raise where what the clean teacher makes of an image, its output or a map, is not finite.

    Raises:
        UserError: names the image.
    """
    if not np.isfinite(values).all():
        raise UserError(
            f"{pair.name!r}: the clean teacher itself gives NaN or infinity on this image; check value range and "
            "layout, or leave the image out"
        )


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
    teacher: Restorer,
    hardened: Restorer,
    pairs: list[ImagePair],
    task_name: str | None,
    budget_db: float = 0.1,
    on_image: Callable[[], None] = lambda: None,
    known: dict[str, Quality] | None = None,
) -> tuple[FidelityReport, list[RestoredImage]]:
    """Run both models over the pairs and judge the difference.

    Args:
        budget_db: PSNR against ground truth that the hardened model may lose, in dB.
        on_image: called after every image, for a progress bar.
        known: the teacher's quality by image name. What is missing is scored and put in: whoever compares
            many models with one teacher on the same pairs hands the same dict in every time.

    Returns:
        The report, and the outputs it was made from.

    Raises:
        UserError: an image is smaller than SSIM's window, or the models restore to unequal sizes.
    """
    check_budget(budget_db)
    task, scale = get_task(task_name), teacher.card.scale
    check_scorable(pairs, task, scale)
    restored = []
    answers = side_by_side((teacher, hardened), pairs, lambda session, pair: session.restore(pair.degraded))
    for pair, outputs in zip(pairs, answers, strict=True):
        for output, name in zip(outputs, ("teacher", "hardened model"), strict=True):
            if output.shape != pair.clean.shape:
                raise UserError(
                    f"{pair.name!r}: the {name} restores {list(pair.degraded.shape)} to {list(output.shape)}, and "
                    f"the clean image is {list(pair.clean.shape)}; is this the right model and task?"
                )
        restored.append(RestoredImage(pair, *outputs))
        on_image()

    finite, worst = compare_outputs([r.teacher for r in restored], [r.hardened for r in restored])
    for image in restored:
        refuse_non_finite(image.pair, image.teacher)

    hard_images = [np.nan_to_num(r.hardened) for r in restored]
    known = {} if known is None else known
    for r in restored:
        if r.pair.name not in known:
            known[r.pair.name] = _quality(r.teacher, r.pair, task, scale)
    teacher_scores = [known[r.pair.name] for r in restored]
    scored = list(zip(hard_images, restored, strict=True))
    clean_quality = _mean(teacher_scores)
    hard_quality = _mean([_quality(image, r.pair, task, scale) for image, r in scored])
    between = [psnr(image, r.teacher, task, scale, clip=False) for image, r in scored]
    own = [min(OWN_PSNR_CEILING_DB, score.psnr) for score in teacher_scores]
    floor = float(np.mean(own)) + BETWEEN_MARGIN_DB
    delta = clean_quality.psnr - hard_quality.psnr
    report = FidelityReport(
        n=len(restored),
        teacher=clean_quality,
        hardened=hard_quality,
        delta_psnr_db=delta,
        delta_ssim=clean_quality.ssim - hard_quality.ssim,
        psnr_between_db=float(np.mean(between)),
        psnr_between_floor_db=floor,
        worst_margin_db=min(b - o for b, o in zip(between, own, strict=True)),
        budget_db=budget_db,
        finite=finite,
        max_abs_difference=worst if finite else 0.0,
        within_budget=False,
        provider=hardened.provider,
        kernels=hardened.kernels,
    )
    return report.model_copy(update={"within_budget": not report.failures()}), restored


def _quality(image: Image, pair: ImagePair, task: Task, scale: int) -> Quality:
    return Quality(psnr=psnr(image, pair.clean, task, scale), ssim=ssim(image, pair.clean, task, scale))


def _mean(scores: Sequence[Quality]) -> Quality:
    return Quality(
        psnr=float(np.mean([score.psnr for score in scores])), ssim=float(np.mean([score.ssim for score in scores]))
    )
