"""`make gpu-check` as far as it goes without a GPU: on kernels that a CPU runs, and what it refuses."""

from __future__ import annotations

import math
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydantic import TypeAdapter

from kdguard.runtime.gpu_check.command import main
from kdguard.runtime.gpu_check.context import Context
from kdguard.runtime.gpu_check.environment import has_gpu
from kdguard.runtime.gpu_check.report import Report, compared
from kdguard.runtime.gpu_check.run import run_all
from kdguard.runtime.kernels.build import has_nvcc
from kdguard.runtime.kernels.device_library import DeviceLibrary
from tests.conftest import ROOT
from tests.runtime.kernels.kernels_on_cpu import KernelsOnCpu

PACKAGES = ("pydantic", "onnx", "onnxruntime", "torch", "scipy", "skimage", "rich", "typer", "yaml", "PIL", "ml_dtypes")
BARE = f"""
import runpy, sys
sys.modules.update(dict.fromkeys({PACKAGES}))  # importing one of them fails
sys.argv[0] = "gpu_check"
runpy.run_module("kdguard.runtime.gpu_check", run_name="__main__")
"""


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
    report = run_all(context, ["kernels", "projector"], say=lambda _: None)
    assert not report.passed
    failed = {result.what for result in report.checks if result.state == "failed"}
    assert {"the op, float32", "SvdRestore of it, float32", "17 channels, rank 4, gap 0.3"} <= failed
    assert "Gram matrices, plain" not in failed


def test_one_that_breaks_does_not_stop_the_others(kernels: KernelsOnCpu, tmp_path: Path) -> None:
    class Broken(DeviceLibrary):
        def gram(self, *_: Any) -> np.ndarray:
            raise RuntimeError("an illegal memory access was encountered\nand more")

    report = run_all(Context(Broken(kernels.path), tmp_path, small=True), ["kernels", "engines"], say=lambda _: None)
    broken = next(result for result in report.checks if result.state == "failed")
    assert broken.reason == "RuntimeError: an illegal memory access was encountered"
    assert report.checks[-1].check == "engines"


def test_nothing_checked_is_not_passed(kernels: KernelsOnCpu, tmp_path: Path) -> None:
    assert not run_all(Context(kernels, tmp_path), ["engines"], say=lambda _: None).passed


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


def test_without_numpy(tmp_path: Path) -> None:
    code = f"import sys; sys.modules['numpy'] = None{BARE}"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 3
    assert done.stderr == "error: gpu-check needs the Python package numpy; install it, nothing else is needed\n"


def test_a_bare_python_is_enough(kernels: KernelsOnCpu, tmp_path: Path) -> None:
    """NumPy and the checkout, under the import names that `make gpu-check` links."""
    (tmp_path / "kdguard").mkdir()
    for package in ("export", "graph_passes", "runtime"):
        (tmp_path / "kdguard" / package).symlink_to(ROOT / package)
    out = tmp_path / "report.json"
    options = ["--library", str(kernels.path), "--small", "--out", str(out)]
    options += ["--only", "kernels", "projector", "onnxruntime-cuda", "network-latency", "torch-svd"]
    done = subprocess.run(
        [sys.executable, "-c", BARE, *options],
        env={"PYTHONPATH": str(tmp_path), "PATH": "/usr/bin:/bin"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    report = read(out)
    skipped = {result.what for result in report.checks if result.state == "skipped"}
    assert skipped == {"the op, bfloat16", "onnxruntime-cuda"}
    assert all("cannot be imported" in timing.reason for timing in report.timings)
