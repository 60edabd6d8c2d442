"""The bench as one figure: hardened over clean per provider, and the op against copy and SVD."""

from __future__ import annotations

from pathlib import Path

import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from kdguard.export.errors import UserError
from kdguard.export.files import atomic_path
from kdguard.runtime.bench.results import Bench, OpAlone, Timing
from kdguard.runtime.bench.tables import map_words, runs_on
from kdguard.runtime.report.figures import COLOURS, to_svg

FORMATS = (".svg", ".png")
_WAYS = {"op": "#dc2626", "plain_copy": "#6b7280", "svd_lowrank": "#2563eb", "svd": "#111827"}
_NAMES = {"op": "op", "plain_copy": "copy", "svd_lowrank": "svd_lowrank", "svd": "svd"}


def check_plot_name(target: Path) -> None:
    """Fail before work starts where the name tells no format.

    Raises:
        UserError: it ends neither in .svg nor in .png.
    """
    if target.suffix.lower() not in FORMATS:
        raise UserError(f"--plot {target}: give a name that ends in {' or '.join(FORMATS)}")


def write_plot(target: Path, bench: Bench) -> None:
    """The figure as a file, by the format that its name tells."""
    figure = _draw(bench)
    with atomic_path(target) as temporary:
        figure.savefig(temporary, format=target.suffix.lower()[1:], dpi=150)
    plt.close(figure)


def bench_svg(bench: Bench) -> str:
    """The figure as markup."""
    return to_svg(_draw(bench))


def _draw(bench: Bench) -> Figure:
    cases = [(found.provider, case) for found in bench.providers for case in found.op_alone]
    heights = [0.9 + 0.45 * len(bench.providers)] + ([1.2 + 0.5 * len(cases)] if cases else [])
    figure, axes = plt.subplots(len(heights), 1, figsize=(8, sum(heights)), height_ratios=heights, squeeze=False)
    _draw_slowdown(axes[0, 0], bench)
    if cases:
        _draw_op(axes[1, 0], cases)
    return figure


def _draw_slowdown(axes: Axes, bench: Bench) -> None:
    for position, found in enumerate(bench.providers):
        _dot(axes, position, found.slowdown.median, found.slowdown.ci95, COLOURS["hardened"])
    axes.axvline(1, color=COLOURS["clean"], lw=1.2)
    axes.set_yticks(range(len(bench.providers)), [runs_on(found) for found in bench.providers])
    axes.set_ylim(len(bench.providers) - 0.5, -0.5)
    axes.set_xlabel("hardened over clean time (median and 95 % interval)")


def _draw_op(axes: Axes, cases: list[tuple[str, OpAlone]]) -> None:
    for position, (_, case) in enumerate(cases):
        for way, colour in _WAYS.items():
            timing: Timing = getattr(case, way)
            _dot(axes, position, timing.median_ms, timing.ci95_ms, colour)
    for way, colour in _WAYS.items():
        axes.plot([], [], "o", color=colour, label=_NAMES[way])
    axes.set_xscale("log")
    axes.set_yticks(range(len(cases)), [f"{provider}: {map_words(case)}" for provider, case in cases])
    axes.set_ylim(len(cases) - 0.5, -0.5)
    axes.set_xlabel("time on one feature map, ms (median and 95 % interval)")
    axes.legend(loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=len(_WAYS), frameon=False)


def _dot(axes: Axes, y: float, median: float, interval: tuple[float, float] | None, colour: str) -> None:
    axes.plot(median, y, "o", ms=6, color=colour)
    if interval:
        axes.plot(interval, [y, y], "|-", ms=8, lw=1.6, color=colour)
