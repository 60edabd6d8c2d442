"""The pipeline from end to end, into a run folder that ends with report.html and summary.json."""

from __future__ import annotations

import importlib
import platform
import shlex
import shutil
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import joblib
from rich import print as show

from kdguard.export.errors import GateFailedError, UserError
from kdguard.export.files import check_writable, write_json
from kdguard.export.image_pairs import load_pairs
from kdguard.export.model_card import read_card, write_card
from kdguard.export.onnx_files import load_onnx, save_onnx
from kdguard.export.tasks import get_task
from kdguard.export.torch_export import export_teacher
from kdguard.graph_passes.op import SvdPerturbAttributes
from kdguard.runtime.attack import AttackOptions, attack
from kdguard.runtime.fidelity import measure_fidelity
from kdguard.runtime.harden import HardenOptions, harden
from kdguard.runtime.pipeline import Pipeline
from kdguard.runtime.progress import console, progress_bar
from kdguard.runtime.report.summary import Environment, RunSummary, conclude
from kdguard.runtime.session import RestorationSession, resolve_card
from kdguard.runtime.tables import fidelity_table, scoreboard_table

PACKAGES = ("kdguard", "torch", "onnx", "onnxruntime-gpu", "onnx-graphsurgeon", "polygraphy", "numpy", "scikit-image")


@dataclass(frozen=True)
class Overrides:
    """What the command line may change about a pipeline file."""

    out: Path | None = None
    steps: int | None = None
    seeds: int | None = None


def run_pipeline(path: Path, pipeline: Pipeline, overrides: Overrides, *, json: Path | None = None) -> RunSummary:
    """Run every stage.

    Args:
        path: of the YAML file; its folder is where relative paths and modules are looked up.
        json: a further place for the summary.

    Raises:
        UserError: bad input at any stage.
        GateFailedError: a fidelity gate failed; where it is the final one, the report is there.
    """
    started = time.monotonic()
    if json:
        check_writable(json)
    out = overrides.out or pipeline.out
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"cannot make the run folder {out}: {error.strerror}; choose another with --out") from error
    _forget_earlier_results(out)
    base = path.parent
    data = _data_folders(pipeline, base, out)

    with _stage("export"):
        teacher = _teacher(pipeline, base, out / "teacher.onnx")
    section = pipeline.harden
    with _stage("harden"):
        manifest = harden(
            teacher,
            out / "hardened.onnx",
            HardenOptions(
                section.layers,
                section.op_types,
                section.placement,
                SvdPerturbAttributes(rank=section.rank, gain=section.gain, centred=section.centred),
                section.budget_db,
                pipeline.seed,
            ),
            data=data["calibration"],
            manifest=out / "manifest.json",
        )
    with _stage("verify"):
        models = load_onnx(teacher), load_onnx(out / "hardened.onnx")
        card = resolve_card(models[0], None, str(teacher))
        pairs = load_pairs(data["test"], get_task(card.task), card.channels, card.scale, pipeline.seed + 1)
        sessions = [RestorationSession(model, card) for model in models]
        with progress_bar("comparing on test images", len(pairs)) as advance:
            fidelity, restored = measure_fidelity(*sessions, pairs, card.task, section.budget_db, advance)
    with _stage("attack"):
        training = pipeline.attack.training
        outcome = attack(
            out / "hardened.onnx",
            teacher,
            data["train"],
            data["test"],
            AttackOptions(
                recipes=tuple(pipeline.attack.recipes),
                seeds=overrides.seeds or pipeline.attack.seeds,
                tap=pipeline.attack.tap,
                tiles=pipeline.attack.tiles,
                seed=pipeline.seed,
                training=training.model_copy(update={"steps": overrides.steps or training.steps}),
            ),
            cache=out / "cache",
        )
    summary = RunSummary(
        name=pipeline.name,
        task=card.task,
        verdict=conclude(fidelity, outcome.scoreboard, manifest),
        fidelity=fidelity,
        attack=outcome.scoreboard,
        manifest=manifest,
        environment=_environment(),
        seconds=round(time.monotonic() - started, 1),
    )
    with _stage("report"):
        from kdguard.runtime.report.build import write_report

        write_report(out / "report.html", summary, restored, outcome.trials, models, card)
        for target in filter(None, (out / "summary.json", json)):
            write_json(target, summary.model_dump())

    show(fidelity_table(fidelity))
    show(scoreboard_table(outcome.scoreboard))
    show(f"[bold]{summary.verdict.headline}[/]")
    for line in summary.verdict.findings:
        show(f"  - {line}")
    show(f"report: {(out / 'report.html').resolve()}   ({summary.seconds:.0f} s)")
    if not fidelity.within_budget:
        raise GateFailedError(f"fidelity gate failed on the test images: {'; '.join(fidelity.failures())}")
    return summary


@contextmanager
def _stage(name: str) -> Iterator[None]:
    console.rule(f"[bold]{name}", align="left")
    yield


def _forget_earlier_results(out: Path) -> None:
    """A report from an earlier run must not pass for this one's when this one fails."""
    for name in ("report.html", "summary.json", "hardened.onnx", "manifest.json"):
        (out / name).unlink(missing_ok=True)


def _data_folders(pipeline: Pipeline, base: Path, out: Path) -> dict[str, Path]:
    section = pipeline.data
    if section.prepare is None:
        folders = {"train": section.train, "calibration": section.calibration, "test": section.test}
        return {name: base / folder for name, folder in folders.items() if folder is not None}
    module_name, _, function_name = section.prepare.partition(":")
    sys.path.insert(0, str(base.resolve()))
    try:
        prepare = getattr(importlib.import_module(module_name), function_name)
    except (ImportError, AttributeError, ValueError) as error:
        raise UserError(f"data.prepare {section.prepare!r} cannot be loaded from {base}: {error}") from error
    finally:
        sys.path.remove(str(base.resolve()))
    shutil.rmtree(out / "data", ignore_errors=True)
    prepare(out / "data")
    return {name: out / "data" / name for name in ("train", "calibration", "test")}


def _teacher(pipeline: Pipeline, base: Path, target: Path) -> Path:
    """The clean teacher in the run folder, with a card."""
    section = pipeline.teacher
    if section.source is not None:
        weights = base / section.weights if section.weights else None
        report = export_teacher(section.source, weights, target, task=pipeline.task, search_path=base)
        show(f"exported {target}, differs from torch by {report.max_abs_error:.1e} on {report.images} real images")
        return target
    assert section.onnx is not None
    model = load_onnx(base / section.onnx)
    if read_card(model) is None:
        write_card(model, resolve_card(model, pipeline.task, str(section.onnx)))
    save_onnx(model, target)
    return target


def _environment() -> Environment:
    found = {}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = "not installed"
    return Environment(
        command=shlex.join(["kdguard", *sys.argv[1:]]),
        python=platform.python_version(),
        platform=platform.platform(),
        cores=joblib.cpu_count(),
        packages=found,
    )
