"""Tables for the terminal."""

from __future__ import annotations

from collections.abc import Sequence

from rich.markup import escape
from rich.table import Table

from kdguard.graph_passes.inventory import HardenedLayer
from kdguard.graph_passes.layers import Layer
from kdguard.runtime.analysis.layer_analysis import Analysis, LayerAnalysis
from kdguard.runtime.fidelity import WORST_MARGIN_DB, FidelityReport
from kdguard.runtime.manifest import Manifest
from kdguard.runtime.wording import change, counted, misleading_taps, number

BY_COST_MODEL = "from a cost model, not timed"
KERNELS = {"native": ", native kernels", "function": "", "none": ""}
STILL = 0.01
"""A map that moves by less than this share of its norm is called out."""


def fidelity_table(report: FidelityReport) -> Table:
    """Both gates at a glance."""
    verdict = "[green]passed[/]" if report.within_budget else "[red]failed[/]"
    table = Table(
        title=f"Fidelity {verdict} on {counted(report.n, 'image')} ({report.provider}{KERNELS[report.kernels]})",
        caption=(
            f"{change(report.delta_psnr_db, 4)} (may lose {report.budget_db:g}); hardened against clean "
            f"{report.psnr_between_db:.1f} dB (floor {report.psnr_between_floor_db:.1f}), on the worst image "
            f"{abs(report.worst_margin_db):.1f} dB {'above' if report.worst_margin_db >= 0 else 'below'} the teacher's "
            f"PSNR (at least {WORST_MARGIN_DB:g} above)"
        ),
        min_width=60,
    )
    for heading in ("model", "PSNR dB", "SSIM"):
        table.add_column(heading, justify="left" if heading == "model" else "right")
    table.add_row("clean teacher", f"{report.teacher.psnr:.3f}", f"{report.teacher.ssim:.4f}")
    table.add_row("hardened", f"{report.hardened.psnr:.3f}", f"{report.hardened.ssim:.4f}")
    return table


def describe_manifest(manifest: Manifest) -> list[tuple[str, str]]:
    """What hardening did, as lines with their styles."""
    lines = []
    for entry in manifest.layers:
        distortion = entry.relative_distortion
        moved = "" if distortion is None else f", moved by {distortion:.2g} times its norm"
        why = f" ({entry.reason})" if entry.reason else ""
        what = f"{entry.placement}, rank {entry.rank}, gain {entry.gain:g}{moved}"
        lines.append((f"{entry.layer} ({entry.op_type}): {what}{why}", ""))
        if distortion is not None and distortion < STILL:
            lines.append((f"  {entry.layer} hardly moves: dead, or a gain near 1; it misleads nobody there", "yellow"))
    if manifest.coverage:
        lines.append((misleading_taps(manifest.coverage.perturbed, manifest.coverage.taps), ""))
    if manifest.estimated_slowdown is not None:
        lines.append((f"estimated time {manifest.estimated_slowdown:.2f} of the clean model's: {BY_COST_MODEL}", ""))
    fidelity = manifest.fidelity
    if fidelity is None:
        lines.append(("fidelity not measured: give --data, or run `kdguard verify`", "yellow"))
    else:
        between = f"hardened against clean {fidelity.psnr_between_db:.1f} dB"
        images = counted(fidelity.n, "image")
        lines.append((f"the hardened model {change(fidelity.delta_psnr_db, 4)} on {images}, {between}", ""))
    if manifest.strip:
        strip = manifest.strip
        text = f"an attacker who deletes our nodes {change(strip.stripped_loss_db)}"
        if strip.refitted_loss_db is not None:
            images = counted(strip.refit_images, "unlabeled image")
            text += f", and {change(strip.refitted_loss_db)} after refitting on {images}"
        lines.append((text, ""))
    if manifest.tiling and manifest.tiling.seams:
        tiles = manifest.tiling
        agreement = f"{tiles.hardened_db:.1f} dB, the clean teacher {tiles.clean_db:.1f}"
        advice = "it shows seams in tiles: run it whole, or harden with --tile-safe"
        lines.append((f"tile-wise and whole-image output agree to {agreement}; {advice}", "yellow"))
    return lines + [(note, "yellow") for note in manifest.notes]


def layer_table(layers: Sequence[Layer], hardened: Sequence[HardenedLayer], title: str) -> Table:
    """Feature maps as the graph tells them."""
    placements = {entry.layer: entry for entry in hardened}
    table = _columns(title, ("layer", "operator", "channels", "type", "read by", "kdguard"))
    for layer in layers:
        channels = "?" if layer.shape[1] is None else str(layer.shape[1])
        readers = f"{layer.consumers}: {', '.join(layer.readers)}" if layer.readers else str(layer.consumers)
        mark = _mark(placements.get(layer.name))
        table.add_row(escape(layer.name), escape(layer.op_type), channels, layer.dtype, escape(readers), mark)
    return table


def _mark(entry: HardenedLayer | None) -> str:
    if entry is None:
        return ""
    return f"{entry.placement}, rank {entry.attributes['rank']}, gain {entry.attributes['gain']:g}"


def analysis_table(analysis: Analysis, layers: Sequence[Layer], hardened: Sequence[HardenedLayer], title: str) -> Table:
    """The rows of `layer_table` as calibration images show them; a map that was not analysed says why."""
    headings = ("layer", "operator", "read by", "shape", "depth", "top 1/4", "centred", "varies", "dB/gain", "kdguard")
    table = _columns(title, headings)
    measured, placements = analysis.by_name(), {entry.layer: entry for entry in hardened}
    for layer in layers:
        entry, found = placements.get(layer.name), measured.get(layer.name)
        cells = _measures(found) if found else [""] * 6
        why = analysis.skipped.get(layer.name, "")
        remark = why if found is None else "dead" if found.dead else "" if found.influences else "no influence"
        readers = escape(", ".join(layer.readers))
        table.add_row(escape(layer.name), escape(layer.op_type), readers, *cells, _mark(entry) or escape(remark))
    table.caption = (
        "top 1/4: share of energy in the largest singular value and in the four largest, as is and centred; varies: "
        "of the top subspace between images; dB/gain: PSNR lost per unit of in-path gain; kdguard: what is inserted, "
        "or why the layer is passed over"
    )
    return table


def _measures(layer: LayerAnalysis) -> list[str]:
    return [
        "x".join(map(str, layer.shape[1:])),
        number(layer.depth),
        f"{number(layer.energy_share[1])}/{number(layer.energy_share[4])}",
        f"{number(layer.centred_share[1])}/{number(layer.centred_share[4])}",
        number(layer.subspace_variation),
        "" if layer.sensitivity_db is None else number(layer.sensitivity_db),
    ]


def _columns(title: str, headings: Sequence[str]) -> Table:
    table = Table(title=title)
    for heading in headings:
        # Names are copied into --layers: they may not be broken over lines.
        table.add_column(heading, no_wrap=heading == "layer", overflow="fold")
    return table
