"""report.html: one file, no network, the verdict first."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import jinja2
import numpy as np
import onnx

from kdguard.export.files import write_text
from kdguard.export.image_tensor import image_to_tensor
from kdguard.export.model_card import ModelCard
from kdguard.export.tasks import Image, get_task
from kdguard.runtime.bench import tables
from kdguard.runtime.bench.plot import bench_svg
from kdguard.runtime.fidelity import WORST_MARGIN_DB, RestoredImage
from kdguard.runtime.metrics import psnr
from kdguard.runtime.pipeline_advice import as_fields
from kdguard.runtime.red_team.scoreboard import BestResponse
from kdguard.runtime.red_team.table import control_words, help_left_line
from kdguard.runtime.red_team.trial import TrialResult
from kdguard.runtime.report import figures
from kdguard.runtime.report.summary import RunSummary
from kdguard.runtime.session import RestorationSession
from kdguard.runtime.tile_check import IDENTICAL_DB
from kdguard.runtime.wording import counted, misleading_taps, number, plus_minus

DIFFERENCE_GAIN = 10
SHOWN_CHANNELS = 6
STRIP_WIDTH = 240
"""Pictures are enlarged by whole factors up to about this many pixels, so that streaks can be seen."""


@dataclass(frozen=True)
class Picture:
    """One captioned picture."""

    uri: str
    caption: str
    note: str = ""


def write_report(
    target: Path,
    summary: RunSummary,
    restored: Sequence[RestoredImage],
    trials: Sequence[TrialResult],
    models: tuple[onnx.ModelProto, onnx.ModelProto],
    card: ModelCard,
) -> None:
    """Render the report.

    Args:
        restored: test images through both models, in the order the trials saw them.
        models: clean teacher and hardened model.
    """
    shown = restored[trials[0].sample_index]
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("kdguard.runtime.report", "."), autoescape=True, undefined=jinja2.StrictUndefined
    )
    tap = summary.attack.tap or (summary.manifest.layers[-1].layer if summary.manifest.layers else None)
    features = _features(models, card, tap, shown) if tap else None
    html = environment.get_template("report.html.j2").render(
        summary=summary,
        made=datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        plus_minus=plus_minus,
        number=number,
        as_fields=as_fields,
        counted=counted,
        misleading_taps=misleading_taps,
        control_words=control_words,
        help_left_line=help_left_line,
        worst_margin=WORST_MARGIN_DB,
        identical=IDENTICAL_DB,
        placements=sorted({layer.placement for layer in summary.manifest.layers}),
        chosen=any(layer.reason for layer in summary.manifest.layers),
        scoreboard_plot=figures.scoreboard_plot(summary.attack),
        curves_plot=figures.curves_plot(trials),
        spectra_plot=figures.spectra_plot(restored),
        strip=_strip(shown, trials, card, summary.attack.best_response),
        bench_plot=bench_svg(summary.bench) if summary.bench else "",
        bench_words=tables,
        shown_name=shown.pair.name,
        tap=tap,
        channels=_channel_pictures(*features) if features else [],
        singular_values_plot=figures.singular_values_plot(*features) if features else "",
    )
    write_text(target, html)


def _enlarge(image: Image) -> int:
    return max(1, STRIP_WIDTH // image.shape[1])


def _strip(
    shown: RestoredImage, trials: Sequence[TrialResult], card: ModelCard, best: BestResponse | None
) -> list[Picture]:
    """Degraded, both teachers, their difference, and the students of the best response to either."""
    task, clean = get_task(card.task), shown.pair.clean

    def picture(image: Image, caption: str) -> Picture:
        return Picture(
            figures.png_uri(image, _enlarge(image)), caption, f"{psnr(image, clean, task, card.scale):.2f} dB"
        )

    difference = np.abs(np.nan_to_num(shown.hardened) - shown.teacher) * DIFFERENCE_GAIN
    degraded = shown.pair.degraded
    pictures = [
        picture(degraded, "degraded")
        if degraded.shape == clean.shape
        else Picture(figures.png_uri(degraded, _enlarge(clean) * card.scale), "degraded"),
        Picture(figures.png_uri(clean, _enlarge(clean)), "ground truth"),
        picture(shown.teacher, "clean teacher"),
        picture(shown.hardened, "hardened teacher"),
        Picture(
            figures.png_uri(difference, _enlarge(clean)),
            f"difference x{DIFFERENCE_GAIN}",
            f"largest {difference.max() / DIFFERENCE_GAIN:.1e}",
        ),
    ]
    for source, chosen in (("clean", best.clean), ("hardened", best.hardened)) if best else ():
        found = [trial for trial in trials if trial.recipe == chosen.recipe and trial.source in (source, "none")]
        pictures += [picture(trial.sample, f"best student from {source} ({trial.recipe})") for trial in found[:1]]
    return pictures


def _features(
    models: tuple[onnx.ModelProto, onnx.ModelProto], card: ModelCard, tap: str, shown: RestoredImage
) -> tuple[np.ndarray, np.ndarray]:
    """The tapped map [C, H, W] of the shown image in both models."""
    tensor = image_to_tensor(shown.pair.degraded, card)
    clean, hardened = (
        RestorationSession(model, card, provider="cpu", taps=[tap]).run(tensor)[1][0] for model in models
    )
    return clean, hardened


def _channel_pictures(clean: np.ndarray, hardened: np.ndarray) -> list[tuple[int, Picture, Picture]]:
    """The channels that vary most, before and after; each picture has its own colour scale."""
    if clean.ndim != 3:
        return []
    busiest = np.argsort(clean.reshape(len(clean), -1).std(axis=1))[::-1][:SHOWN_CHANNELS]

    def picture(values: np.ndarray) -> Picture:
        coloured = figures.heatmap(values)
        return Picture(figures.png_uri(coloured, _enlarge(coloured)), "", f"{values.min():.3g} to {values.max():.3g}")

    return [(int(c), picture(clean[c]), picture(hardened[c])) for c in busiest]
