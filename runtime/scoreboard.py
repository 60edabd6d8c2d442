"""The scoreboard: every trial, a summary per recipe, and the best the attacker did."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from pydantic import BaseModel, Field
from scipy import stats

from kdguard.runtime.recipes import get_recipe
from kdguard.runtime.trial import Source, TrialResult


class Row(BaseModel):
    """One trial."""

    recipe: str
    source: Source
    seed: int
    psnr: float
    ssim: float
    diverged: bool = False


class Group(BaseModel):
    """One recipe from one source, over the seeds."""

    psnr: float
    ssim: float
    ci95: float | None = Field(description="half width of the 95 % interval of the mean PSNR; None for one seed")
    diverged: int = Field(0, description="students that ended in NaN or infinity; they are no measurement")


class SummaryEntry(BaseModel):
    """One recipe, clean teacher against hardened, paired by seed.

    A control never saw a teacher: both sides show the same students and its drop is 0.
    """

    recipe: str
    tier: str
    clean: Group
    hardened: Group
    drop_db: float = Field(description="clean minus hardened, positive where hardening hurt the student")
    drop_ci95: float | None = Field(description="half width of its 95 % interval, paired by seed")
    ssim_drop_pct: float

    @property
    def diverged(self) -> int:
        """Students of either side that are no measurement."""
        return self.clean.diverged + self.hardened.diverged


class BestStudent(BaseModel):
    """The best student that any recipe reached, by mean PSNR; a control's is open to every attacker."""

    recipe: str
    psnr: float


class BestResponse(BaseModel):
    """What an attacker who picks his recipe gets, among those that ran."""

    clean: BestStudent
    hardened: BestStudent
    drop_db: float


class Scoreboard(BaseModel):
    """What `kdguard attack` writes; rows, summary and best_response are a contract."""

    rows: list[Row]
    summary: list[SummaryEntry]
    best_response: BestResponse | None = Field(description="None where only controls ran, or all of one side diverged")
    seeds: int
    steps: int
    student: str
    student_parameters: int
    tap: str | None
    test_images: int


def interval95(values: Sequence[float]) -> float | None:
    """Half width of the 95 % confidence interval of the mean, Student's t; None for one value."""
    if len(values) < 2:
        return None
    return float(stats.t.ppf(0.975, len(values) - 1) * np.std(values, ddof=1) / np.sqrt(len(values)))


def summarise(results: Sequence[TrialResult]) -> tuple[list[SummaryEntry], BestResponse | None]:
    """Summary per recipe in the order of first appearance, and the best response."""
    summary = []
    for name in dict.fromkeys(result.recipe for result in results):
        by_source = {
            source: sorted((r for r in results if (r.recipe, r.source) == (name, source)), key=lambda r: r.seed)
            for source in ("none", "clean", "hardened")
        }
        clean = by_source["clean"] or by_source["none"]
        hardened = by_source["hardened"] or by_source["none"]
        drops = [c.psnr - h.psnr for c, h in zip(clean, hardened, strict=True)]
        clean_group, hardened_group = _group(clean), _group(hardened)
        summary.append(
            SummaryEntry(
                recipe=name,
                tier=get_recipe(name).tier,
                clean=clean_group,
                hardened=hardened_group,
                drop_db=float(np.mean(drops)),
                drop_ci95=interval95(drops),
                ssim_drop_pct=100 * (1 - hardened_group.ssim / max(clean_group.ssim, 1e-9)),
            )
        )
    return summary, _best_response(summary)


def _group(results: Sequence[TrialResult]) -> Group:
    values = [result.psnr for result in results]
    return Group(
        psnr=float(np.mean(values)),
        ssim=float(np.mean([result.ssim for result in results])),
        ci95=interval95(values),
        diverged=sum(result.diverged for result in results),
    )


def _best_response(summary: Sequence[SummaryEntry]) -> BestResponse | None:
    if all(entry.tier == "control" for entry in summary):
        return None
    sound_clean = [entry for entry in summary if not entry.clean.diverged]
    sound_hardened = [entry for entry in summary if not entry.hardened.diverged]
    if not sound_clean or not sound_hardened:
        return None
    clean = max(sound_clean, key=lambda entry: entry.clean.psnr)
    hardened = max(sound_hardened, key=lambda entry: entry.hardened.psnr)
    return BestResponse(
        clean=BestStudent(recipe=clean.recipe, psnr=clean.clean.psnr),
        hardened=BestStudent(recipe=hardened.recipe, psnr=hardened.hardened.psnr),
        drop_db=clean.clean.psnr - hardened.hardened.psnr,
    )
