"""From trials to the scoreboard: means, intervals paired by seed, and the best response."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from kdguard.runtime.recipes import get_recipe
from kdguard.runtime.recipes.base import Source
from kdguard.runtime.red_team.bound import drop_bound_db
from kdguard.runtime.red_team.interval import interval95
from kdguard.runtime.red_team.landmarks import Landmarks
from kdguard.runtime.red_team.options import AttackOptions
from kdguard.runtime.red_team.scoreboard import (
    BestResponse,
    BestStudent,
    Group,
    HelpLeft,
    NotRun,
    Row,
    Scoreboard,
    Setting,
    SummaryEntry,
)
from kdguard.runtime.red_team.sweep import Tuned
from kdguard.runtime.red_team.trial import TrialResult


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
        # Who holds a key of the hardened file asks that one alone.
        clean = _students(results, name, ("clean", "none", "hardened"))
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
                pooled_drop_db=clean_group.pooled_db - hardened_group.pooled_db,
                bound_db=drop_bound_db(clean_group.pooled_db, apart_db)
                if tier == "T0" and apart_db is not None
                else None,
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
        pooled_db=float(np.mean([result.pooled_db for result in results])),
        ci95=interval95(values),
        diverged=sum(result.diverged for result in results),
    )


def _difference(first: Sequence[TrialResult], second: Sequence[TrialResult]) -> tuple[float, float | None]:
    """Mean PSNR of the first students minus that of the second, and its interval, paired by seed."""
    differences = [a.psnr - b.psnr for a, b in zip(first, second, strict=True)]
    return float(np.mean(differences)), interval95(differences)


def _best_response(summary: Sequence[SummaryEntry], results: Sequence[TrialResult]) -> BestResponse | None:
    if not any(entry.compared for entry in summary):
        return None
    # What only ever asks the clean teacher, or needs a key, is nothing that a thief of the hardened one can do:
    # beside it on the clean side alone, anything would look like a defence.
    open_to_all = [entry for entry in summary if get_recipe(entry.recipe).sources != ("clean",) and entry.tier != "T3"]
    sound_clean = [entry for entry in open_to_all if not entry.clean.diverged]
    sound_hardened = [entry for entry in open_to_all if not entry.hardened.diverged]
    if not sound_clean or not sound_hardened:
        return None
    clean = max(sound_clean, key=lambda entry: entry.clean.psnr)
    hardened = max(sound_hardened, key=lambda entry: entry.hardened.psnr)
    from_clean = _students(results, clean.recipe, ("clean", "none"))
    from_hardened = _students(results, hardened.recipe, ("hardened", "none"))
    drop, interval = _difference(from_clean, from_hardened)
    return BestResponse(
        clean=BestStudent(recipe=clean.recipe, psnr=clean.clean.psnr),
        hardened=BestStudent(recipe=hardened.recipe, psnr=hardened.hardened.psnr),
        drop_db=drop,
        drop_ci95=interval,
        same_students=[r.pooled_db for r in from_clean] == [r.pooled_db for r in from_hardened],
    )


def _help_left(summary: Sequence[SummaryEntry], results: Sequence[TrialResult]) -> HelpLeft | None:
    scratch = _students(results, "scratch", ("none",))
    helped = [e for e in summary if e.compared and get_recipe(e.recipe).ground_truth and not e.hardened.diverged]
    if not scratch or not helped:
        return None
    best = max(helped, key=lambda entry: entry.hardened.psnr)
    gain, interval = _difference(_students(results, best.recipe, ("hardened",)), scratch)
    before, before_interval = _difference(_students(results, best.recipe, ("clean",)), scratch)
    return HelpLeft(
        recipe=best.recipe,
        gain_db=gain,
        gain_ci95=interval,
        clean_gain_db=before,
        clean_gain_ci95=before_interval,
    )
