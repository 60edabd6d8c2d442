"""`make gpu-check` as far as it goes without a GPU: on kernels that a CPU runs, and what it refuses."""

from __future__ import annotations

import math
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydantic import TypeAdapter

from kdguard.runtime.gpu import has_gpu
from kdguard.runtime.gpu_check.command import main
from kdguard.runtime.gpu_check.context import Context
from kdguard.runtime.gpu_check.report import Report, compared
from kdguard.runtime.gpu_check.run import run_apart, run_here
from kdguard.runtime.gpu_check.timings.clock import EventClock
from kdguard.runtime.kernels.build import has_nvcc
from kdguard.runtime.kernels.device_library import DeviceError, DeviceLibrary
from tests.conftest import ROOT
from tests.runtime.kernels.kernels_on_cpu import KernelsOnCpu

PACKAGES = ("pydantic", "onnx", "onnxruntime", "torch", "scipy", "skimage", "rich", "typer", "yaml", "PIL", "ml_dtypes")
FAULT = "an illegal memory access was encountered"
DIES = """
import os, sys
from kdguard.runtime.gpu_check.command import main
from kdguard.runtime.kernels.device_library import DeviceError, DeviceLibrary

def gram(*_):
    print("last words", file=sys.stderr, flush=True)
    os.abort()

DeviceLibrary.gram = gram
sys.exit(main())
"""


def without(packages: Sequence[str], folder: Path) -> Path:
    """A folder in which importing one of them fails."""
    for package in packages:
        (folder / f"{package}.py").write_text(
            "raise ModuleNotFoundError(f'No module named {__name__!r}', name=__name__)"
        )
    return folder


class Wrong(DeviceLibrary):
    """One in a thousand beside what is right."""

    def perturb(self, *given: Any, **named: Any) -> tuple[np.ndarray, np.ndarray | None]:
        found, change = super().perturb(*given, **named)
        return (found * found.dtype.type(1.001)).astype(found.dtype), change

    def project(self, gram: np.ndarray, rank: int) -> np.ndarray:
        return super().project(gram, rank) * np.float32(1.001)


def read(path: Path) -> Report:
    return TypeAdapter(Report).validate_json(path.read_bytes())


def test_a_run(kernels: KernelsOnCpu, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Everything that is checked passes, what is missing says so, and the file holds what was said."""
    out = tmp_path / "report.json"
    only = ["kernels", "projector", "torch-streams", "engines", "device-copy"]
    assert main(["--library", str(kernels.path), "--small", "--out", str(out), "--only", *only]) == 0
    report = read(out)
    assert report.passed
    states = {name: {r.state for r in report.checks if r.check == name} for name in only[:4]}
    assert states == {
        "kernels": {"passed"},
        "projector": {"passed"},
        "torch-streams": {"skipped"},
        "engines": {"skipped"},
    }
    assert all(result.reason for result in report.checks if result.state == "skipped")
    measured = [result for result in report.checks if result.state == "passed"]
    assert all(result.error is not None and result.limit is not None for result in measured)
    assert [timing.what for timing in report.timings] == [
        f"rank 4 on 16x8x40 of noise, {dtype}" for dtype in ("float16", "float32")
    ]
    assert all(timing.milliseconds["op"] > 0 < timing.ratios["op / copy"] for timing in report.timings)
    assert report.environment.gpu == "a CPU that runs the kernels thread by thread"
    assert report.environment.packages["numpy"] == np.__version__
    said = capsys.readouterr().out
    assert "passed  kernels: the op, float32, error" in said
    assert said.splitlines()[-1] == f"passed; {out}"


def test_what_is_wrong_fails(kernels: KernelsOnCpu, tmp_path: Path) -> None:
    context = Context(Wrong(kernels.path), tmp_path, small=True)
    report = run_here(context, ["kernels", "projector"], say=lambda _: None)
    assert not report.passed
    failed = {result.what for result in report.checks if result.state == "failed"}
    assert {"the op, float32", "SvdRestore of it, float32", "17 channels, rank 4, gap 0.3"} <= failed
    assert "Gram matrices, plain" not in failed


class Faulty(DeviceLibrary):
    """As on a GPU: after a fault every further call of the process fails."""

    faulted = False

    def call(self, name: str, *arguments: Any) -> None:
        self.faulted = self.faulted or name == "kdguard_gram"
        if self.faulted:
            raise DeviceError(f"{name}: {FAULT}\nand more")
        super().call(name, *arguments)


def test_a_fault_is_reported_although_it_sticks(kernels: KernelsOnCpu, tmp_path: Path) -> None:
    """And the call that failed first is named, not what was to be given back after it."""
    kept: list[int] = []
    report = run_here(
        Context(Faulty(kernels.path), tmp_path, small=True),
        ["kernels", "projector", "engines", "device-copy"],
        say=lambda _: None,
        keep=lambda found: kept.append(len(found.checks) + len(found.timings)),
    )
    failed = [(result.check, result.reason) for result in report.checks if result.state == "failed"]
    assert failed == [
        ("kernels", f"DeviceError: kdguard_gram: {FAULT}"),
        ("projector", f"DeviceError: kdguard_allocate: {FAULT}"),
    ]
    assert report.environment.gpu == "a CPU that runs the kernels thread by thread"
    assert report.checks[-1].check == "engines"
    assert [timing.state for timing in report.timings] == ["failed"]
    assert not report.passed
    assert kept == list(range(1, len(report.checks) + len(report.timings) + 1))


def test_a_fault_leaves_events_without_a_word(kernels: KernelsOnCpu) -> None:
    library = Faulty(kernels.path)
    with pytest.raises(DeviceError, match="kdguard_gram"), EventClock(library), library.memory(8):
        library.call("kdguard_gram")


def test_a_check_that_takes_its_process_along(kernels: KernelsOnCpu, tmp_path: Path) -> None:
    """What it had found stays, and the next one runs as if nothing had been."""
    context = Context(kernels, tmp_path, small=True)
    said: list[str] = []
    report = run_apart(context, ["kernels", "projector"], said.append, [sys.executable, "-c", DIES])
    (failed,) = [result for result in report.checks if result.state == "failed"]
    assert (failed.check, failed.reason) == ("kernels", "its process ended with -6: last words")
    states = [(result.check, result.state) for result in report.checks]
    assert ("kernels", "passed") in states
    assert states[-1] == ("projector", "passed")
    assert len(said) == len(states)


def test_a_process_that_finds_nothing_or_never_ends(
    kernels: KernelsOnCpu, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    context = Context(kernels, tmp_path, small=True)
    report = run_apart(context, ["projector"], lambda _: None, ["true"])
    assert [(r.state, r.reason) for r in report.checks] == [("failed", "its process found nothing: it said nothing")]
    monkeypatch.setattr("kdguard.runtime.gpu_check.run.LIMIT_S", 0.1)
    report = run_apart(context, ["torch-svd"], lambda _: None, ["sh", "-c", "exec sleep 60"])
    assert [(t.state, t.reason) for t in report.timings] == [("failed", "it was ended after 0.1 s")]


def test_nothing_checked_is_not_passed(kernels: KernelsOnCpu, tmp_path: Path) -> None:
    assert not run_here(Context(kernels, tmp_path), ["engines"], say=lambda _: None).passed


def test_timings_alone(kernels: KernelsOnCpu, tmp_path: Path) -> None:
    context = Context(kernels, tmp_path, small=True)
    assert run_here(context, ["device-copy"], say=lambda _: None).passed
    skipped = run_here(context, ["torch-svd"], say=lambda _: None)
    assert [timing.state for timing in skipped.timings] == ["skipped"]
    assert not skipped.passed


def test_where_the_report_cannot_be_written(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Before any work: the library does not even exist."""
    nowhere = tmp_path / "nowhere" / "report.json"
    assert main(["--out", str(nowhere), "--library", str(tmp_path / "none.so")]) == 2
    assert f"cannot write {nowhere}: the folder" in capsys.readouterr().err


def test_nan_is_not_within_a_limit() -> None:
    assert compared("c", "w", 0.0, 0.0).state == "passed"
    failed = compared("c", "w", math.nan, 1.0)
    assert (failed.state, failed.error, failed.reason) == ("failed", None, "nan is beyond 1")


def test_without_a_gpu(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    if has_gpu() and has_nvcc():
        pytest.skip("this machine has what it needs")
    out = tmp_path / "report.json"
    assert main(["--out", str(out)]) == 3
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1
    assert lines[0].startswith("error: gpu-check needs ")
    assert not out.exists()


def test_a_file_that_is_no_library(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "text.so").write_text("not a library")
    assert main(["--library", str(tmp_path / "text.so")]) == 2
    assert "text.so is no build of the kernels" in capsys.readouterr().err


def run_bare(lacking: Sequence[str], folder: Path, *options: str) -> subprocess.CompletedProcess[str]:
    """The checkout under the import names that `make gpu-check` links, without some packages."""
    (folder / "kdguard").mkdir()
    for package in ("export", "graph_passes", "runtime"):
        (folder / "kdguard" / package).symlink_to(ROOT / package)
    return subprocess.run(
        [sys.executable, "-m", "kdguard.runtime.gpu_check", *options],
        env={"PYTHONPATH": str(without(lacking, folder)), "PATH": "/usr/bin:/bin"},
        capture_output=True,
        text=True,
        check=False,
    )


def test_without_numpy(tmp_path: Path) -> None:
    done = run_bare(["numpy"], tmp_path)
    assert done.returncode == 3
    assert done.stderr == "error: gpu-check needs the Python package numpy; install it, nothing else is needed\n"


def test_a_bare_python_is_enough(kernels: KernelsOnCpu, tmp_path: Path) -> None:
    out = tmp_path / "report.json"
    options = ["--library", str(kernels.path), "--small", "--out", str(out)]
    options += ["--only", "kernels", "projector", "onnxruntime-cuda", "engines", "network-latency", "torch-svd"]
    done = run_bare(PACKAGES, tmp_path, *options)
    assert done.returncode == 0, (done.stdout + done.stderr)[-2000:]
    report = read(out)
    skipped = {result.what for result in report.checks if result.state == "skipped"}
    engines = {f"{title}, {precision}" for title in ("TensorRT", "TensorRT-RTX") for precision in ("fp32", "fp16")}
    assert skipped == {"the op, bfloat16", "onnxruntime-cuda"} | engines
    assert all("cannot be imported" in timing.reason for timing in report.timings)
