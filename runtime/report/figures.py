"""The report's figures, each returned as markup that needs no other file."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence

import matplotlib
import numpy as np
from numpy.typing import NDArray
from PIL import Image as PilImage

from kdguard.export.tasks import Image
from kdguard.runtime.fidelity import RestoredImage
from kdguard.runtime.metrics import radial_power_spectrum
from kdguard.runtime.recipes import get_recipe
from kdguard.runtime.red_team.scoreboard import Group, Scoreboard, SummaryEntry
from kdguard.runtime.red_team.trial import TrialResult

matplotlib.use("Agg")
import matplotlib.pyplot as plt
from matplotlib.figure import Figure

COLOURS = {"none": "#6b7280", "clean": "#2563eb", "hardened": "#dc2626"}
_LABELS = {"none": "no teacher", "clean": "from clean", "hardened": "from hardened"}
SPECTRUM_FLOOR = 1e-16
CURVE_COLUMNS = 4

plt.rcParams.update(
    {
        "font.size": 10,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.grid": True,
        "grid.alpha": 0.25,
        "svg.fonttype": "path",
        "svg.hashsalt": "kdguard",
        "figure.constrained_layout.use": True,
    }
)


def to_svg(figure: Figure) -> str:
    """A figure as markup; it is closed."""
    stream = io.StringIO()
    figure.savefig(stream, format="svg", metadata={"Date": None})
    plt.close(figure)
    markup = stream.getvalue()
    return markup[markup.index("<svg") :]


def png_uri(image: Image, enlarge: int = 1) -> str:
    """An image [H, W, 1 or 3] in [0, 1] as a data URI, each pixel `enlarge` pixels wide."""
    pixels = np.rint(np.clip(np.nan_to_num(image), 0, 1) * 255).astype(np.uint8)
    if pixels.shape[-1] == 1:
        pixels = np.repeat(pixels, 3, axis=-1)
    picture = PilImage.fromarray(pixels)
    picture = picture.resize((picture.width * enlarge, picture.height * enlarge), PilImage.Resampling.NEAREST)
    stream = io.BytesIO()
    picture.save(stream, format="PNG", optimize=True)
    return "data:image/png;base64," + base64.b64encode(stream.getvalue()).decode()


def scoreboard_plot(board: Scoreboard) -> str:
    """Every student as a tick, means with 95 % intervals: recipes down, PSNR across."""
    names = [entry.recipe for entry in board.summary]
    figure, axes = plt.subplots(figsize=(8, 0.9 + 0.65 * len(names)))
    for position, entry in enumerate(board.summary):
        for source, group, offset in _sides(entry):
            y = position + offset
            dots = [row.psnr for row in board.rows if (row.recipe, row.source) == (entry.recipe, source)]
            axes.scatter(dots, [y] * len(dots), s=26, color=COLOURS[source], alpha=0.55, marker="|", linewidths=1.5)
            axes.errorbar(group.psnr, y, xerr=group.ci95, fmt="o", ms=7, capsize=4, lw=1.6, color=COLOURS[source])
    axes.set_yticks(range(len(names)), names)
    axes.set_ylim(len(names) - 0.5, -0.5)
    axes.set_xlabel("PSNR of the student on test images, dB (mean and 95 % interval; ticks: single seeds)")
    for source in ("none", "clean", "hardened"):
        axes.plot([], [], "o", color=COLOURS[source], label=_LABELS[source])
    axes.legend(loc="upper center", bbox_to_anchor=(0.5, 1.22), ncols=3, frameon=False)
    return to_svg(figure)


def _sides(entry: SummaryEntry) -> list[tuple[str, Group, float]]:
    if not entry.compared:
        return [(get_recipe(entry.recipe).sources[0], entry.clean, 0.0)]
    return [("clean", entry.clean, -0.14), ("hardened", entry.hardened, 0.14)]


def curves_plot(trials: Sequence[TrialResult]) -> str:
    """Training curves: distance to ground truth on training batches, one panel per recipe."""
    names = list(dict.fromkeys(trial.recipe for trial in trials))
    columns = min(len(names), CURVE_COLUMNS)
    rows = -(-len(names) // columns)
    size = (1.2 + 3.1 * columns, 3 * rows)
    figure, panels = plt.subplots(rows, columns, figsize=size, sharey=True, squeeze=False)
    for axes in panels.flat[len(names) :]:
        axes.axis("off")
    for axes, name in zip(panels.flat, names, strict=False):
        for trial in trials:
            if trial.recipe == name:
                steps, values = zip(*trial.curve, strict=True)
                label = _LABELS[trial.source] if trial.seed == trials[0].seed else None
                axes.plot(steps, values, color=COLOURS[trial.source], lw=1.2, alpha=0.8, label=label)
        axes.set_title(name, fontsize=10)
        axes.set_yscale("log")
        axes.set_xlabel("step")
        axes.legend(frameon=False, fontsize=8)
    for row in panels:
        row[0].set_ylabel("L1 to ground truth (training)")
    return to_svg(figure)


def spectra_plot(restored: Sequence[RestoredImage]) -> str:
    """Radially averaged power spectrum of both models' outputs and of their difference."""
    length = min(min(r.teacher.shape[:2]) // 2 for r in restored)
    grid = np.linspace(0, 0.5, length)

    def mean_spectrum(images: list[Image]) -> NDArray[np.float64]:
        rows = []
        for image in images:
            spectrum = radial_power_spectrum(image)
            rows.append(np.interp(grid, np.linspace(0, 0.5, len(spectrum)), spectrum))
        return np.maximum(np.mean(rows, axis=0), SPECTRUM_FLOOR)

    figure, axes = plt.subplots(figsize=(8, 3.2))
    teacher = [r.teacher for r in restored]
    hardened = [np.nan_to_num(r.hardened) for r in restored]
    axes.semilogy(grid, mean_spectrum(teacher), color=COLOURS["clean"], lw=3, alpha=0.5, label="clean teacher")
    axes.semilogy(grid, mean_spectrum(hardened), color=COLOURS["hardened"], lw=1.2, ls="--", label="hardened")
    difference = [h - t for h, t in zip(hardened, teacher, strict=True)]
    axes.semilogy(grid, mean_spectrum(difference), color="#111827", lw=1.2, label="difference")
    axes.set_xlabel("spatial frequency, cycles per pixel")
    axes.set_ylabel("power")
    axes.legend(frameon=False, ncols=3, loc="upper right")
    return to_svg(figure)


def singular_values_plot(clean: NDArray[np.float32], hardened: NDArray[np.float32]) -> str:
    """Singular values of the tapped map [C, H, W] before and after."""
    figure, axes = plt.subplots(figsize=(8, 2.8))
    for features, source, label in ((clean, "clean", "before"), (hardened, "hardened", "after")):
        values = np.linalg.svd(features.reshape(len(features), -1).astype(np.float64), compute_uv=False)
        axes.semilogy(
            range(1, len(values) + 1),
            np.maximum(values, SPECTRUM_FLOOR),
            "o-",
            ms=4,
            color=COLOURS[source],
            label=label,
        )
    axes.set_xlabel("singular value, largest first")
    axes.set_ylabel("size")
    axes.legend(frameon=False)
    return to_svg(figure)


def heatmap(values: NDArray[np.float32]) -> Image:
    """A feature channel [H, W] coloured from its smallest to its largest value, [H, W, 3]."""
    low, high = float(values.min()), float(values.max())
    scaled = (values - low) / (high - low) if high > low else np.zeros_like(values)
    return matplotlib.colormaps["viridis"](scaled)[..., :3].astype(np.float32)
