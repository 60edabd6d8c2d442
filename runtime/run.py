"""The pipeline from end to end, into a run folder that ends with report.html and summary.json."""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from pathlib import Path

import onnx

from kdguard.export.errors import GateFailedError, UserError, first_line
from kdguard.export.files import check_outputs, real_path, remove, write_json
from kdguard.export.image_pairs import ImagePair, load_pairs, refuse_overlap
from kdguard.export.model_card import ModelCard, write_card
from kdguard.export.onnx_files import load_onnx, save_onnx
from kdguard.export.tasks import get_task
from kdguard.export.torch_export import export_teacher
from kdguard.export.user_code import import_callable
from kdguard.runtime.bench.measure import bench
from kdguard.runtime.bench.providers import default_providers, split_by_presence
from kdguard.runtime.bench.results import Bench
from kdguard.runtime.bench.subject import Subject, choose_size
from kdguard.runtime.bench.tables import bench_tables
from kdguard.runtime.box.section import BOX_NAMES, GATED_NAME, make_box, read_keys, write_gate
from kdguard.runtime.fidelity import FidelityReport, RestoredImage, measure_fidelity
from kdguard.runtime.harden import harden
from kdguard.runtime.manifest import Manifest, manifest_path
from kdguard.runtime.pipeline import Pipeline
from kdguard.runtime.pipeline_advice import advising_by_fields, board_by_fields
from kdguard.runtime.red_team.attack import AttackOutcome, attack
from kdguard.runtime.red_team.options import AttackOptions
from kdguard.runtime.red_team.table import scoreboard_table
from kdguard.runtime.report.environment import current_environment
from kdguard.runtime.report.summary import RunSummary, conclude
from kdguard.runtime.resolve_card import resolve_card
from kdguard.runtime.session import RestorationSession, check_taps
from kdguard.runtime.tables import fidelity_table
from kdguard.runtime.terminal import announce, progress_bar, say, show
from kdguard.runtime.wording import counted

MODELS = ("hardened.onnx", "teacher.onnx", GATED_NAME)
MANIFESTS = ("manifest.json", manifest_path(Path(GATED_NAME)).name)
RESULTS = ("report.html", "summary.json", *MANIFESTS, *BOX_NAMES, *MODELS, *(f"{name}.data" for name in MODELS))
MARKER = ".kdguard-run"


@dataclass(frozen=True)
class Overrides:
    """What the command line may change about a pipeline file."""

    out: Path | None = None
    steps: int | None = None
    seeds: int | None = None


@advising_by_fields()
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
    out = overrides.out or pipeline.out
    inputs = _inputs(path, pipeline)
    _check_json(json, out, inputs)
    keys = read_keys(pipeline.box, path.parent) if pipeline.box else None
    _clear_run_folder(out, inputs)
    data = _data_folders(pipeline, path.parent, out)

    announce("export")
    teacher = _teacher(pipeline, path.parent, out / "teacher.onnx", data["calibration"])
    clean = load_onnx(teacher)
    card = resolve_card(clean, pipeline.task, str(teacher))
    _check_tap(pipeline, clean)
    pairs = _load_data(pipeline, card, data)
    _check_bench(pipeline, card)
    announce("harden")
    manifest = _harden(pipeline, teacher, out, data["calibration"])
    announce("verify")
    models = clean, load_onnx(out / "hardened.onnx")
    fidelity, restored = _verify(pipeline, models, card, pairs)
    gated = write_gate(keys, out, models[1], data["calibration"]) if keys else None  # a hint may name no layer
    announce("attack")
    outcome = _attack(pipeline, overrides, out, data)
    box = make_box(keys, out, models[1], gated, card, pairs, outcome.scoreboard) if keys else None
    timed = _bench(pipeline, out, models, card)
    announce("report")
    summary = RunSummary(
        name=pipeline.name,
        task=pipeline.task,
        verdict=conclude(fidelity, outcome.scoreboard, manifest, timed, box),
        fidelity=fidelity,
        attack=outcome.scoreboard,
        bench=timed,
        box=box,
        manifest=manifest,
        environment=current_environment(),
        seconds=round(time.monotonic() - started, 1),
    )
    _write_results(out, json, summary, restored, outcome, models, card)
    _tell(summary, out)
    if not fidelity.within_budget:
        raise GateFailedError(f"fidelity gate failed on the test images: {'; '.join(fidelity.failures())}")
    return summary


def _inputs(path: Path, pipeline: Pipeline) -> list[Path]:
    """What the run reads: none of it may lie among what it writes."""
    section, data = pipeline.teacher, pipeline.data
    keys = pipeline.box.files() if pipeline.box else []
    named = (section.weights, section.onnx, data.train, data.calibration, data.test, *keys)
    return [path, *(path.parent / name for name in named if name is not None)]


def _check_json(json: Path | None, out: Path, inputs: list[Path]) -> None:
    """The further summary may not land on anything the run reads or writes."""
    if json is None:
        return
    check_outputs([json], [*inputs, *(out / name for name in RESULTS)])
    for folder in (out, *(path for path in inputs if path.is_dir())):
        if real_path(json).is_relative_to(real_path(folder)):
            raise UserError(f"cannot write {json}: it lies in {folder}, which this run uses; give another place")


def _clear_run_folder(out: Path, inputs: list[Path]) -> None:
    """Make the folder, and drop an earlier run's results: they must not pass for this one's if it fails.

    Only folders that a run made are touched; a marker file tells them.
    """
    for path in inputs:
        if not path.exists():
            raise UserError(f"{path}: no such file or folder; the pipeline file names it")
        # As named and as resolved: neither a link in the folder nor its target may be lost.
        if path.absolute().is_relative_to(out.absolute()) or real_path(path).is_relative_to(real_path(out)):
            raise UserError(f"{path} lies in the run folder {out}, which is cleared at the start; choose another --out")
    try:
        if out.exists() and any(out.iterdir()) and not (out / MARKER).is_file():
            raise UserError(f"{out} holds other files and is no run folder; choose a new or empty one with --out")
        out.mkdir(parents=True, exist_ok=True)
        (out / MARKER).touch()
        for name in (*RESULTS, "data"):
            remove(out / name)
    except OSError as error:
        raise UserError(f"cannot use the run folder {out}: {error.strerror}; choose another with --out") from error


def _data_folders(pipeline: Pipeline, base: Path, out: Path) -> dict[str, Path]:
    section = pipeline.data
    if section.prepare is None:
        folders = {"train": section.train, "calibration": section.calibration, "test": section.test}
        return {name: base / folder for name, folder in folders.items() if folder is not None}
    prepare = import_callable(section.prepare, base)
    try:
        prepare(out / "data")
    except UserError:
        raise
    except Exception as error:  # the user's own code
        raise UserError(f"data.prepare {section.prepare} raised {type(error).__name__}: {first_line(error)}") from error
    return {name: out / "data" / name for name in ("train", "calibration", "test")}


def _load_data(pipeline: Pipeline, card: ModelCard, data: dict[str, Path]) -> list[ImagePair]:
    """The test pairs, after checking that they are in none of the other folders."""
    task = get_task(card.task)
    train, calibration = (
        load_pairs(data[name], task, card.channels, card.scale, pipeline.seed) for name in ("train", "calibration")
    )
    test = load_pairs(data["test"], task, card.channels, card.scale, pipeline.seed + 1)
    refuse_overlap(train, test, "training")
    refuse_overlap(calibration, test, "calibration")
    return test


def _teacher(pipeline: Pipeline, base: Path, target: Path, calibration: Path) -> Path:
    """The clean teacher in the run folder, with a card that all later stages read.

    What the pipeline says of an ONNX file goes into it; a value range that nobody states is found on calibration pairs.
    """
    section = pipeline.teacher
    if section.source is not None:
        weights = base / section.weights if section.weights else None
        card = section.card(pipeline.task)
        report = export_teacher(section.source, weights, target, task=pipeline.task, card=card, search_path=base)
        images = counted(report.images, "real image")
        say(f"exported {target}, differs from torch by {report.max_abs_error:.1e} on {images}")
        return target
    assert section.onnx is not None
    model = load_onnx(base / section.onnx)
    write_card(model, resolve_card(model, pipeline.task, str(section.onnx), section.overrides(), calibration))
    save_onnx(model, target)
    return target


def _check_tap(pipeline: Pipeline, clean: onnx.ModelProto) -> None:
    """A tap that is not even in the teacher is told now, not after hardening."""
    if pipeline.attack.tap:
        check_taps([pipeline.attack.tap], clean, "teacher")


def _harden(pipeline: Pipeline, teacher: Path, out: Path, calibration: Path) -> Manifest:
    options = pipeline.harden.options(pipeline.seed, out / "cache")
    return harden(teacher, out / "hardened.onnx", options, data=calibration, manifest=out / "manifest.json")


def _verify(
    pipeline: Pipeline, models: tuple[onnx.ModelProto, onnx.ModelProto], card: ModelCard, pairs: list[ImagePair]
) -> tuple[FidelityReport, list[RestoredImage]]:
    teacher, hardened = (RestorationSession(model, card) for model in models)
    with progress_bar("comparing on test images", len(pairs)) as advance:
        return measure_fidelity(teacher, hardened, pairs, card.task, pipeline.harden.budget_db, advance)


def _attack(pipeline: Pipeline, overrides: Overrides, out: Path, data: dict[str, Path]) -> AttackOutcome:
    section = pipeline.attack
    steps = overrides.steps or section.training.steps
    outcome = attack(
        out / "hardened.onnx",
        out / "teacher.onnx",
        data["train"],
        data["test"],
        AttackOptions(
            recipes=section.recipes,
            seeds=overrides.seeds or section.seeds,
            tap=section.tap,
            tiles=section.tiles,
            seed=pipeline.seed,
            backend=section.backend,
            training=section.training.model_copy(update={"steps": steps}),
        ),
        cache=out / "cache",
    )
    return replace(outcome, scoreboard=board_by_fields(outcome.scoreboard))


def _check_bench(pipeline: Pipeline, card: ModelCard) -> None:
    """What cannot be timed is told now, not after the attack."""
    if pipeline.bench is not None:
        choose_size(pipeline.bench.size, card, "bench.size")
        split_by_presence(pipeline.bench.providers or default_providers())


def _bench(
    pipeline: Pipeline, out: Path, models: tuple[onnx.ModelProto, onnx.ModelProto], card: ModelCard
) -> Bench | None:
    """After the attack, whose workers have ended then."""
    if pipeline.bench is None:
        return None
    announce("bench")
    size = choose_size(pipeline.bench.size, card, "bench.size")
    return bench(Subject(out / "teacher.onnx", out / "hardened.onnx", models, card, size), pipeline.bench)


def _write_results(
    out: Path,
    json: Path | None,
    summary: RunSummary,
    restored: list[RestoredImage],
    outcome: AttackOutcome,
    models: tuple[onnx.ModelProto, onnx.ModelProto],
    card: ModelCard,
) -> None:
    from kdguard.runtime.report.build import write_report

    write_report(out / "report.html", summary, restored, outcome.trials, models, card)
    for target in (out / "summary.json", json):
        if target:
            write_json(target, summary.model_dump())


def _tell(summary: RunSummary, out: Path) -> None:
    show(fidelity_table(summary.fidelity))
    show(scoreboard_table(summary.attack))
    for table in bench_tables(summary.bench) if summary.bench else ():
        show(table)
    say(summary.verdict.headline, "bold")
    for line in summary.verdict.findings:
        say(f"  - {line}")
    say(f"report: {(out / 'report.html').resolve()}   ({summary.seconds:.0f} s)")
