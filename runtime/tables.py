"""Tables for the terminal."""

from __future__ import annotations

from collections.abc import Sequence

from rich.markup import escape
from rich.table import Table

from kdguard.graph_passes.inventory import HardenedLayer
from kdguard.graph_passes.layers import Layer
from kdguard.runtime.analysis.layer_analysis import Analysis
from kdguard.runtime.fidelity import WORST_MARGIN_DB, FidelityReport
from kdguard.runtime.manifest import Manifest
from kdguard.runtime.scoreboard import Group, Scoreboard

STILL = 0.01
"""A map that moves by less than this share of its norm is called out."""


def fidelity_table(report: FidelityReport) -> Table:
    """Both gates at a glance."""
    verdict = "[green]passed[/]" if report.within_budget else "[red]failed[/]"
    table = Table(
        title=f"Fidelity {verdict} on {report.n} images ({report.provider})",
        caption=(
            f"loss {number(report.delta_psnr_db, 4)} dB (budget {report.budget_db:g}); hardened against clean "
            f"{report.psnr_between_db:.1f} dB (floor {report.psnr_between_floor_db:.1f}), on the worst image "
            f"{report.worst_margin_db:.1f} dB above the teacher's PSNR (at least {WORST_MARGIN_DB:g})"
        ),
        min_width=60,
    )
    for heading in ("model", "PSNR dB", "SSIM"):
        table.add_column(heading, justify="left" if heading == "model" else "right")
    table.add_row("clean teacher", f"{report.teacher.psnr:.3f}", f"{report.teacher.ssim:.4f}")
    table.add_row("hardened", f"{report.hardened.psnr:.3f}", f"{report.hardened.ssim:.4f}")
    return table


def plus_minus(value: float, half_width: float | None, digits: int = 2) -> str:
    """A mean with its 95 % half width, where there is one."""
    shown = number(value, digits)
    return shown if half_width is None else f"{shown} ± {number(half_width, digits)}"


def number(value: float, digits: int = 2) -> str:
    """Fixed digits, and no minus before a zero."""
    return f"{round(value, digits) + 0.0:.{digits}f}"


def counted(count: int, noun: str) -> str:
    """`1 seed`, `3 seeds`."""
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"


def scoreboard_table(board: Scoreboard) -> Table:
    """One line per recipe; students from the clean teacher against students from the hardened one."""
    spread = "mean ± 95 % interval" if board.seeds > 1 else "one seed, no interval"
    table = Table(
        title=f"Students: PSNR on {counted(board.test_images, 'test image')}, {counted(board.seeds, 'seed')}, {spread}",
        caption=best_response_line(board),
    )
    for heading in ("recipe", "tier", "clean", "hardened", "drop", "SSIM drop"):
        table.add_column(heading, justify="left" if heading in ("recipe", "tier") else "right", no_wrap=True)
    for entry in board.summary:
        control = entry.tier == "control"
        table.add_row(
            entry.recipe,
            entry.tier,
            _students(entry.clean),
            "no teacher" if control else _students(entry.hardened),
            "" if control or entry.diverged else plus_minus(entry.drop_db, entry.drop_ci95),
            "" if control or entry.diverged else f"{number(entry.ssim_drop_pct, 1)} %",
        )
    return table


def _students(group: Group) -> str:
    return f"{group.diverged} diverged" if group.diverged else plus_minus(group.psnr, group.ci95)


def best_response_line(board: Scoreboard) -> str:
    """What the attacker's best choice gives him, and what was not tried."""
    best = board.best_response
    if all(entry.tier == "control" for entry in board.summary):
        return "best response: not asked, only controls ran"
    if best is None:
        return "best response: none, every student of one side diverged"
    line = (
        f"best response: {number(best.clean.psnr)} dB from clean ({best.clean.recipe}), "
        f"{number(best.hardened.psnr)} dB from hardened ({best.hardened.recipe}), drop {number(best.drop_db)} dB"
    )
    if lost := [entry.recipe for entry in board.summary if entry.diverged]:
        line += f"; students of {', '.join(lost)} diverged and count for nothing"
    if not any(entry.tier == "T0" for entry in board.summary):
        line += "; no output-only recipe (T0) ran, a real attacker has that choice too"
    return line


def describe_manifest(manifest: Manifest) -> list[tuple[str, str]]:
    """What hardening did, as lines with their styles."""
    lines = []
    for entry in manifest.layers:
        change = entry.relative_distortion
        moved = "" if change is None else f", moved by {change:.2g} times its norm"
        why = f" ({entry.reason})" if entry.reason else ""
        what = f"{entry.placement}, rank {entry.rank}, gain {entry.gain:g}{moved}"
        lines.append((f"{entry.layer} ({entry.op_type}): {what}{why}", ""))
        if change is not None and change < STILL:
            lines.append((f"  {entry.layer} hardly moves: dead, or a gain near 1; it misleads nobody there", "yellow"))
    if manifest.coverage:
        covered = manifest.coverage
        lines.append((f"{covered.perturbed} of {covered.taps} taps in the middle third of the network mislead", ""))
    fidelity = manifest.fidelity
    if fidelity is None:
        lines.append(("fidelity not measured: give --data, or run `kdguard verify`", "yellow"))
    else:
        between = f"hardened against clean {fidelity.psnr_between_db:.1f} dB"
        lines.append((f"loss {number(fidelity.delta_psnr_db, 4)} dB on {fidelity.n} images, {between}", ""))
    if manifest.strip:
        strip = manifest.strip
        text = f"an attacker who deletes our nodes loses {number(strip.stripped_loss_db)} dB"
        if strip.refitted_loss_db is not None:
            repaired = f"{number(strip.refitted_loss_db)} dB after refitting on {strip.refit_images} unlabeled images"
            text += f", {repaired}"
        lines.append((text, ""))
    if manifest.tiling and manifest.tiling.seams:
        tiles = manifest.tiling
        agreement = f"{tiles.hardened_db:.1f} dB, the clean teacher {tiles.clean_db:.1f}"
        lines.append((f"tile-wise and whole-image output agree to {agreement}", "yellow"))
    return lines + [(note, "yellow") for note in manifest.notes]


def layer_table(layers: Sequence[Layer], hardened: Sequence[HardenedLayer], title: str) -> Table:
    """Feature maps as the graph tells them."""
    placements = {entry.layer: entry for entry in hardened}
    table = _columns(title, ("layer", "operator", "channels", "type", "read by", "kdguard"))
    for layer in layers:
        entry = placements.get(layer.name)
        mark = f"{entry.placement}, rank {entry.attributes['rank']}, gain {entry.attributes['gain']:g}" if entry else ""
        channels = "?" if layer.shape[1] is None else str(layer.shape[1])
        readers = f"{layer.consumers}: {', '.join(layer.readers)}" if layer.readers else str(layer.consumers)
        table.add_row(escape(layer.name), escape(layer.op_type), channels, layer.dtype, escape(readers), mark)
    return table


def analysis_table(analysis: Analysis, title: str) -> Table:
    """Feature maps as calibration images show them."""
    headings = ("layer", "operator", "read by", "shape", "depth", "top 1/4", "centred", "varies", "dB/gain", "")
    table = _columns(title, headings)
    for layer in analysis.layers:
        sensitivity = "" if layer.sensitivity_db is None else number(layer.sensitivity_db)
        remark = "dead" if layer.dead else "" if layer.influences else "no influence"
        table.add_row(
            escape(layer.name),
            escape(layer.op_type),
            escape(", ".join(layer.readers)),
            "x".join(map(str, layer.shape[1:])),
            number(layer.depth),
            f"{number(layer.energy_share[1])}/{number(layer.energy_share[4])}",
            f"{number(layer.centred_share[1])}/{number(layer.centred_share[4])}",
            number(layer.subspace_variation),
            sensitivity,
            remark,
        )
    table.caption = (
        "top 1/4: share of energy in the largest singular value and in the four largest, as is and centred; varies: "
        "of the top subspace between images; dB/gain: PSNR lost per unit of in-path gain"
    )
    return table


def _columns(title: str, headings: Sequence[str]) -> Table:
    table = Table(title=title)
    for heading in headings:
        # Names are copied into --layers: they may not be broken over lines.
        table.add_column(heading, no_wrap=heading == "layer", overflow="fold")
    return table
