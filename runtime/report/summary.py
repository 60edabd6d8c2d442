"""summary.json, and the verdict at the top of the report."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, Field

from kdguard.runtime.bench.results import Bench
from kdguard.runtime.bench.tables import time_finding
from kdguard.runtime.box.report import BoxReport, box_finding
from kdguard.runtime.fidelity import FidelityReport
from kdguard.runtime.manifest import Manifest
from kdguard.runtime.pipeline_advice import as_fields
from kdguard.runtime.red_team.remarks import remarks
from kdguard.runtime.red_team.scoreboard import Scoreboard, SummaryEntry
from kdguard.runtime.red_team.table import best_response_line, drop_or_gain, help_left_line
from kdguard.runtime.report.environment import Environment
from kdguard.runtime.wording import change, counted, misleading_taps, number

SMALL_EFFECT_DB = 0.5
"""An interval that stays this close to zero says that there is no effect worth having."""


class Verdict(BaseModel):
    """What to do, first."""

    status: Literal["pass", "fail"] = Field(description="of the fidelity gates, the only thing that can fail a run")
    headline: str
    findings: list[str]


class RunSummary(BaseModel):
    """Everything a build pipeline may want to read."""

    name: str
    task: str
    verdict: Verdict
    fidelity: FidelityReport
    attack: Scoreboard
    bench: Bench | None = Field(None, description="where the pipeline asks for it")
    box: BoxReport | None = Field(None, description="likewise")
    manifest: Manifest
    environment: Environment
    seconds: float


def conclude(
    fidelity: FidelityReport,
    board: Scoreboard,
    manifest: Manifest,
    bench: Bench | None = None,
    box: BoxReport | None = None,
) -> Verdict:
    """The verdict in plain words; every claim names its tier and its measured figure."""
    findings = [_fidelity_finding(fidelity), f"B{best_response_line(board)[1:]}."]
    if board.help_left:
        findings.append(f"W{help_left_line(board)[1:]}.")
    findings += [f"Note: {as_fields(remark)}." for remark in remarks(board)]
    findings += [_recipe_finding(entry, board.seeds) for entry in board.summary if entry.compared]
    findings += [f"{missing.tier} {missing.recipe}: not run, {missing.reason}." for missing in board.not_run]
    findings += _coverage_findings(manifest)
    findings.append(_strip_finding(manifest))
    findings += _tiling_findings(manifest)
    if bench is not None:
        findings.append(time_finding(bench))
    elif manifest.estimated_slowdown is not None:
        findings.append(f"Time: {number(manifest.estimated_slowdown)} of the clean model's by a cost model, not timed.")
    if box is not None:
        findings.append(box_finding(box))
    if not fidelity.within_budget:
        return Verdict(
            status="fail", headline="Do not ship: the hardened model fails the fidelity gate.", findings=findings
        )
    return Verdict(status="pass", headline=_headline(board), findings=findings)


def _headline(board: Scoreboard) -> str:
    misled = [e for e in board.summary if e.compared and _certain(e) and e.drop_db > 0]
    if not misled:
        return "Fidelity holds. Whether any recipe is misled is not shown by this run."
    worst = max(misled, key=lambda entry: entry.drop_db)
    headline = f"Fidelity holds. {worst.recipe} ({worst.tier}) loses {worst.drop_db:.2f} dB"
    if board.best_response is None:
        return f"{headline}."
    drop = board.best_response.drop_db
    return f"{headline}; the best response {change(drop)}."


def _certain(entry: SummaryEntry) -> bool:
    """Whether the drop's interval excludes zero; one seed, or a student that diverged, gives no certainty."""
    return entry.drop_ci95 is not None and not entry.diverged and abs(entry.drop_db) > entry.drop_ci95


def _fidelity_finding(fidelity: FidelityReport) -> str:
    word = "within" if fidelity.keeps_budget else "outside"
    failed = "".join(f" Failed: {line}." for line in fidelity.failures())
    return (
        f"Teacher: {change(fidelity.delta_psnr_db, 3)} on {counted(fidelity.n, 'test image')} ({word} the budget of "
        f"{fidelity.budget_db:g} dB); hardened against clean {fidelity.psnr_between_db:.1f} dB "
        f"(floor {fidelity.psnr_between_floor_db:.1f} dB).{failed}"
    )


def _recipe_finding(entry: SummaryEntry, seeds: int) -> str:
    drop = drop_or_gain(entry.drop_db, entry.drop_ci95)
    return (
        f"{entry.tier} {entry.recipe}: {entry.clean.psnr:.2f} dB from the clean teacher, {entry.hardened.psnr:.2f} dB "
        f"from the hardened one; {drop} dB over {counted(seeds, 'seed')}: {_reading(entry)}."
    )


def _coverage_findings(manifest: Manifest) -> list[str]:
    if manifest.coverage is None:
        return []
    covered = manifest.coverage
    another = "; whoever reads another one is not misled" if covered.taps else ""
    return [f"T1 coverage: {misleading_taps(covered.perturbed, covered.taps)}{another}."]


def _strip_finding(manifest: Manifest) -> str:
    """What is left against an attacker who knows kdguard."""
    placements = {layer.placement for layer in manifest.layers}
    undone = f"{' and '.join(sorted(placements))} nodes are undone by deleting them"
    if "compensated" in placements:
        reading = "compensated nodes count against naive removal only"
    elif placements - {"paired"}:
        reading = undone
    else:
        reading = f"{undone}; whoever edits the graph, or uses outputs only, is not slowed down"
    strip = manifest.strip
    if strip is None:
        return f"T1s, not measured in this run: {reading}."
    finding = (
        f"T1s: deleting every node of ours leaves the attacker {below(strip.stripped_loss_db)} the hardened model on "
        f"{counted(strip.n, 'calibration image')}"
    )
    if strip.refitted_loss_db is not None:
        images = counted(strip.refit_images, "unlabeled image")
        finding += f", {below(strip.refitted_loss_db)} it after refitting the readers on {images}"
    return f"{finding}; {reading}."


def below(loss_db: float) -> str:
    """`2.10 dB below`, or above."""
    return f"{number(abs(loss_db))} dB {'above' if round(loss_db, 2) < 0 else 'below'}"


def _tiling_findings(manifest: Manifest) -> list[str]:
    tiles = manifest.tiling
    if tiles is None or not tiles.seams:
        return []
    return [
        f"Tiles: run tile by tile, the hardened model agrees with itself to {tiles.hardened_db:.1f} dB, the clean "
        f"teacher to {tiles.clean_db:.1f} dB; run it whole, or set harden.tile_safe: true."
    ]


def _reading(entry: SummaryEntry) -> str:
    """What the figures allow to say."""
    if entry.diverged:
        return f"not conclusive, {counted(entry.diverged, 'student')} diverged"
    if entry.drop_ci95 is None:
        return "not conclusive, one seed gives no interval"
    if _certain(entry):
        return "hardening hurts this student" if entry.drop_db > 0 else "hardening helps this student"
    if abs(entry.drop_db) + entry.drop_ci95 <= SMALL_EFFECT_DB:
        return "no measurable effect"
    return "not conclusive, the interval is wider than the drop; more seeds or steps are needed"
