"""Figure of how students learn: PSNR on validation tiles over training steps, mean of the seeds.

    python benchmarks/validation_curves.py

Draws docs/validation-curves.png from benchmarks/results/red_team. Each panel is one teacher; a student
that validates on its teacher's answers (`output-l1`) has another scale than one with ground truth, so each
curve is drawn against the best it reached.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import matplotlib as mpl
import numpy as np
import scoreboards
from output import RESULTS

mpl.use("Agg")
import matplotlib.pyplot as plt

TARGET = RESULTS.parent.parent / "docs" / "validation-curves.png"
SHOWN = (
    ("scratch", "none", "0.3", "-"),
    ("output-l1", "clean", "tab:blue", "-"),
    ("output-l1", "hardened", "tab:blue", "--"),
    ("fitnets", "clean", "tab:orange", "-"),
    ("fitnets", "hardened", "tab:orange", "--"),
)
LOWEST_DB = -6.0
COLUMNS = 4


def below_best(rows: Sequence[dict[str, Any]]) -> tuple[list[int], list[float]]:
    """Steps, and the mean over seeds of PSNR less the best; up to the step that every seed reached."""
    curves = [row["validation_curve"] for row in rows]
    steps = [step for step, _ in min(curves, key=len)]
    scores = np.array([[score - max(s for _, s in curve) for _, score in curve[: len(steps)]] for curve in curves])
    return steps, scores.mean(0).tolist()


def main() -> None:
    rows = [json.loads(path.read_text()) for path in sorted((RESULTS / "red_team").glob("*-hardened-*.json"))]
    boards = scoreboards.boards(rows)
    lines = -(-len(boards) // COLUMNS)
    figure, axes = plt.subplots(lines, COLUMNS, figsize=(12, 2.8 * lines), sharex=True, sharey=True, squeeze=False)
    for axis in axes.flat[len(boards) :]:
        axis.set_axis_off()
    for axis, (name, board) in zip(axes.flat, boards.items(), strict=False):
        for recipe, source, colour, style in SHOWN:
            chosen = [row for row in board["rows"] if (row["recipe"], row["source"]) == (recipe, source)]
            axis.plot(
                *below_best(chosen), style, color=colour, label=recipe if source == "none" else f"{recipe}, {source}"
            )
        axis.set_title(name, fontsize=10)
        axis.set_ylim(LOWEST_DB, 0.3)
        axis.grid(alpha=0.3)
    for axis in axes[:, 0]:
        axis.set_ylabel("dB below its best")
    for axis in axes[-1]:
        axis.set_xlabel("steps")
    figure.legend(*axes[0, 0].get_legend_handles_labels(), loc="lower right", fontsize=9)
    figure.tight_layout()
    figure.savefig(TARGET, dpi=110)


if __name__ == "__main__":
    main()
