"""The scoreboard: every trial, a summary per recipe, and the best the attacker did."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from pydantic import BaseModel, Field
from scipy import stats

from kdguard.runtime.recipes import get_recipe
from kdguard.runtime.recipes.base import Source
from kdguard.runtime.red_team.bound import drop_bound_db
from kdguard.runtime.red_team.landmarks import Landmarks
from kdguard.runtime.red_team.options import AttackOptions, TrainingOptions
from kdguard.runtime.red_team.sweep import Tuned
from kdguard.runtime.red_team.trial import TrialResult


class Row(BaseModel):
    """One student that counts, or one that was tried for its settings only."""

    recipe: str
    source: Source
    seed: int
    psnr: float
    ssim: float
    diverged: bool = False
    learning_rate: float = 0.0
    weight: float = Field(1.0, description="of the feature term")
    validation_db: float | None = Field(None, description="what settings and the moment to stop were chosen by")
    steps: int = 0
    validation_curve: list[tuple[int, float]] = Field(default_factory=list, description="(step, PSNR)")


class Group(BaseModel):
    """One recipe from one source, over the seeds."""

    psnr: float
    ssim: float
    ci95: float | None = Field(description="half width of the 95 % interval of the mean PSNR; None for one seed")
    diverged: int = Field(0, description="students whose training ended in NaN or infinity")


class SummaryEntry(BaseModel):
    """One recipe, clean teacher against hardened, paired by seed.

    A control never saw the hardened teacher: both sides show the same students and its drop is 0.
    """

    recipe: str
    tier: str
    clean: Group
    hardened: Group
    drop_db: float = Field(description="clean minus hardened, positive where hardening hurt the student")
    drop_ci95: float | None = Field(description="half width of its 95 % interval, paired by seed")
    ssim_drop_pct: float
    bound_db: float | None = Field(None, description="largest drop that an output-only student can have; T0 only")

    @property
    def diverged(self) -> int:
        """Students of either side whose training diverged."""
        return self.clean.diverged + self.hardened.diverged


class BestStudent(BaseModel):
    """The best student that any recipe reached, by mean PSNR; `scratch` is open to every attacker."""

    recipe: str
    psnr: float


class BestResponse(BaseModel):
    """What an attacker who picks his recipe gets, among those that ran."""

    clean: BestStudent
    hardened: BestStudent
    drop_db: float
    drop_ci95: float | None = Field(None, description="half width of its 95 % interval, paired by seed")


class HelpLeft(BaseModel):
    """What the hardened teacher still gives an attacker who owns ground truth."""

    recipe: str = Field(description="the best recipe that uses ground truth and the hardened teacher")
    gain_db: float = Field(description="over `scratch`; at most 0 where the teacher's help is gone")
    gain_ci95: float | None


class NotRun(BaseModel):
    """A recipe that these models give nothing to work with."""

    recipe: str
    tier: str
    reason: str


class Setting(BaseModel):
    """What was attacked, with what; enough to tell two scoreboards apart."""

    kdguard: str = Field(description="version")
    teacher: str = Field(description="file name")
    teacher_sha256: str
    hardened: str = Field(description="file name")
    hardened_sha256: str
    hardened_layers: list[str] = Field(description="layers that kdguard hardened")
    task: str | None
    owned_images: int = Field(description="that the attacker trains and validates on")
    tiles: int
    tile_side: int = Field(description="pixels of the degraded image")
    seed: int = Field(description="of the cutting")
    training: TrainingOptions


class Scoreboard(BaseModel):
    """What `kdguard attack` writes; rows, summary and best_response are a contract."""

    best_response: BestResponse | None = Field(description="None where only controls ran, or all of one side diverged")
    help_left: HelpLeft | None = Field(None, description="None without `scratch` or a recipe with ground truth")
    summary: list[SummaryEntry]
    rows: list[Row]
    tried: list[Row] = Field(default_factory=list, description="students trained to choose settings, by validation")
    not_run: list[NotRun] = Field(default_factory=list)
    seeds: int
    steps: int
    student: str
    student_parameters: int
    tap: str | None
    test_images: int
    setting: Setting | None = None
    landmarks: Landmarks | None = Field(None, description="what students are to be compared with")

    @property
    def controls_lead(self) -> bool:
        """No recipe that asks a teacher is better than the best one that asks none, on the clean side."""
        without = [entry.clean.psnr for entry in self.summary if get_recipe(entry.recipe).sources == ("none",)]
        asking = [
            e.clean.psnr for e in self.summary if get_recipe(e.recipe).sources != ("none",) and not e.clean.diverged
        ]
        return bool(without and asking) and max(asking) <= max(without)


def interval95(values: Sequence[float]) -> float | None:
    """Half width of the 95 % confidence interval of the mean, Student's t; None for one value."""
    if len(values) < 2:
        return None
    return float(stats.t.ppf(0.975, len(values) - 1) * np.std(values, ddof=1) / np.sqrt(len(values)))


def make_scoreboard(
    tuned: Sequence[Tuned],
    not_run: Sequence[NotRun],
    options: AttackOptions,
    tap: str | None,
    test_images: int,
    setting: Setting | None = None,
    landmarks: Landmarks | None = None,
) -> Scoreboard:
    """Everything in the order of the recipes."""
    results = [result for group in tuned for result in group.chosen]
    summary = summarise(results, landmarks.outputs_apart_db if landmarks else None)
    return Scoreboard(
        best_response=_best_response(summary, results),
        help_left=_help_left(summary, results),
        summary=summary,
        rows=[_row(result) for result in results],
        tried=[_row(result) for group in tuned for result in group.tried],
        not_run=list(not_run),
        seeds=options.seeds,
        steps=options.training.steps,
        student=options.training.student,
        student_parameters=results[0].parameters,
        tap=tap,
        test_images=test_images,
        setting=setting,
        landmarks=landmarks,
    )


def _row(result: TrialResult) -> Row:
    facts = {name: getattr(result, name) for name in Row.model_fields}
    facts["validation_db"] = result.validation_db if np.isfinite(result.validation_db) else None
    facts["validation_curve"] = [(step, round(score, 2)) for step, score in result.validation_curve]
    return Row(**facts)


def summarise(results: Sequence[TrialResult], apart_db: float | None = None) -> list[SummaryEntry]:
    """Summary per recipe in the order of first appearance.

    Args:
        apart_db: PSNR between the two teachers' outputs.
    """
    summary = []
    for name in dict.fromkeys(result.recipe for result in results):
        clean = _students(results, name, ("clean", "none"))
        hardened = _students(results, name, ("hardened", "none")) or clean
        drops = [c.psnr - h.psnr for c, h in zip(clean, hardened, strict=True)]
        clean_group, hardened_group = _group(clean), _group(hardened)
        tier = get_recipe(name).tier
        summary.append(
            SummaryEntry(
                recipe=name,
                tier=tier,
                clean=clean_group,
                hardened=hardened_group,
                drop_db=float(np.mean(drops)),
                drop_ci95=interval95(drops),
                ssim_drop_pct=100 * (1 - hardened_group.ssim / max(clean_group.ssim, 1e-9)),
                bound_db=drop_bound_db(clean_group.psnr, apart_db) if tier == "T0" and apart_db is not None else None,
            )
        )
    return summary


def _students(results: Sequence[TrialResult], recipe: str, sources: Sequence[Source]) -> list[TrialResult]:
    """A recipe's students from the first of the sources that it asked, by seed."""
    for source in sources:
        if found := [r for r in results if (r.recipe, r.source) == (recipe, source)]:
            return sorted(found, key=lambda r: r.seed)
    return []


def _group(results: Sequence[TrialResult]) -> Group:
    values = [result.psnr for result in results]
    return Group(
        psnr=float(np.mean(values)),
        ssim=float(np.mean([result.ssim for result in results])),
        ci95=interval95(values),
        diverged=sum(result.diverged for result in results),
    )


def _difference(first: Sequence[TrialResult], second: Sequence[TrialResult]) -> tuple[float, float | None]:
    """Mean PSNR of the first students minus that of the second, and its interval, paired by seed."""
    differences = [a.psnr - b.psnr for a, b in zip(first, second, strict=True)]
    return float(np.mean(differences)), interval95(differences)


def _best_response(summary: Sequence[SummaryEntry], results: Sequence[TrialResult]) -> BestResponse | None:
    if all(entry.tier == "control" for entry in summary):
        return None
    sound_clean = [entry for entry in summary if not entry.clean.diverged]
    # What only ever asks the clean teacher is nothing that a thief of the hardened one can do.
    open_to_all = [entry for entry in summary if get_recipe(entry.recipe).sources != ("clean",)]
    sound_hardened = [entry for entry in open_to_all if not entry.hardened.diverged]
    if not sound_clean or not sound_hardened:
        return None
    clean = max(sound_clean, key=lambda entry: entry.clean.psnr)
    hardened = max(sound_hardened, key=lambda entry: entry.hardened.psnr)
    drop, interval = _difference(
        _students(results, clean.recipe, ("clean", "none")), _students(results, hardened.recipe, ("hardened", "none"))
    )
    return BestResponse(
        clean=BestStudent(recipe=clean.recipe, psnr=clean.clean.psnr),
        hardened=BestStudent(recipe=hardened.recipe, psnr=hardened.hardened.psnr),
        drop_db=drop,
        drop_ci95=interval,
    )


def _help_left(summary: Sequence[SummaryEntry], results: Sequence[TrialResult]) -> HelpLeft | None:
    scratch = _students(results, "scratch", ("none",))
    helped = [
        e for e in summary if e.tier != "control" and get_recipe(e.recipe).ground_truth and not e.hardened.diverged
    ]
    if not scratch or not helped:
        return None
    best = max(helped, key=lambda entry: entry.hardened.psnr)
    gain, interval = _difference(_students(results, best.recipe, ("hardened",)), scratch)
    return HelpLeft(recipe=best.recipe, gain_db=gain, gain_ci95=interval)
