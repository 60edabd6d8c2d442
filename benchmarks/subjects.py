"""What the red team attacks: the published teachers, hardened by benchmarks/zoo_harden.py, and the quickstart's."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import zoo

from kdguard.export.onnx_files import load_onnx
from kdguard.export.torch_export import export_teacher
from kdguard.export.user_code import import_callable
from kdguard.graph_passes.inventory import hardened_layers
from kdguard.runtime.harden import harden
from kdguard.runtime.pipeline import load_pipeline

QUICKSTART = "quickstart"
BUILD = zoo.ROOT / "build" / "red_team"
EXAMPLE = zoo.ROOT / "examples" / "quickstart"
ASVP_PAIRED = "asvp-paired"
"""Plain ASVP in paired nodes, where no gain costs the teacher anything."""
IN_DOMAIN = ("low-light", "underwater", "dehazing")
"""Tasks whose degradations of photographs are too unlike the published pairs: a student of the one learns
little for the other. There the attacker owns published pairs."""
KEPT = 3
"""Every third published pair is kept for the score where the attacker owns the others."""


@dataclass(frozen=True)
class Subject:
    """A teacher, its hardened version, and images; those that score are used for nothing else."""

    name: str
    task: str
    teacher: Path
    hardened: Path
    train: Path
    calibration: Path
    test: Path

    @property
    def paired(self) -> list[str]:
        """The layers that mislead."""
        return [entry.layer for entry in hardened_layers(load_onnx(self.hardened)) if entry.placement == "paired"]

    def defended(self, defence: str) -> Path:
        """Where benchmarks/prior_defences.py puts the teacher with a prior defence."""
        return BUILD / f"{self.name}-{defence}.onnx"


def names() -> list[str]:
    return [QUICKSTART, *zoo.TASKS]


@contextmanager
def subject(name: str) -> Iterator[Subject]:
    """A subject, made or found; its folders last as long as the context."""
    BUILD.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as scratch:
        yield _quickstart(Path(scratch)) if name == QUICKSTART else _published(name, Path(scratch))


def _published(task: str, scratch: Path) -> Subject:
    zoo.open_hardened(task)
    # One set of photographs, calibration and training alike: a thief may well own what the vendor calibrated on.
    photographs, pairs = zoo.calibration_folder(scratch), zoo.ZOO / task / "test"
    train, test = (photographs, pairs) if task not in IN_DOMAIN else _split(pairs, scratch)
    teacher, hardened = zoo.ZOO / task / "teacher.onnx", zoo.HARDENED / f"{task}.onnx"
    return Subject(task, task, teacher, hardened, train, photographs, test)


def _split(pairs: Path, scratch: Path) -> tuple[Path, Path]:
    """Folders of links: the pairs that the attacker owns, and those that score."""
    folders = scratch / "owned", scratch / "kept"
    for kind in ("clean", "degraded"):
        for folder in folders:
            (folder / kind).mkdir(parents=True)
        for index, path in enumerate(sorted((pairs / kind).iterdir())):
            (folders[index % KEPT == 0] / kind / path.name).symlink_to(path.resolve())
    return folders


def _quickstart(scratch: Path) -> Subject:
    pipeline = load_pipeline(EXAMPLE / "pipeline.yaml")
    import_callable("photographs:prepare", EXAMPLE)(scratch / "data")
    train, calibration, test = (scratch / "data" / kind for kind in ("train", "calibration", "test"))
    teacher, hardened = BUILD / "quickstart-teacher.onnx", BUILD / "quickstart.onnx"
    if not hardened.is_file():
        weights = EXAMPLE / "teacher.safetensors"
        export_teacher("teacher:derain_edsr", weights, teacher, task=pipeline.task, search_path=EXAMPLE)
        options = pipeline.harden.options(pipeline.seed, BUILD / "analysis")
        harden(teacher, hardened, options, task=pipeline.task, data=calibration)
    return Subject(QUICKSTART, pipeline.task, teacher, hardened, train, calibration, test)
