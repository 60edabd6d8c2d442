"""The check and the timing of engines, with onnxruntime in the vendor's place: no GPU is needed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import onnx
import pytest
from onnx import numpy_helper

from kdguard.export.errors import UserError
from kdguard.runtime.engines.prepare import written_out
from kdguard.runtime.gpu_check.checks import engines
from kdguard.runtime.gpu_check.context import Context
from kdguard.runtime.gpu_check.timings import engine_latency
from tests.runtime.engines.engine_files import onnxruntime_answers, write_engine
from tests.runtime.kernels.kernels_on_cpu import KernelsOnCpu

__all__ = ["onnxruntime_answers"]
RTX = "TensorRT-RTX"


@pytest.fixture(autouse=True)
def a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("tensorrt_rtx")
    monkeypatch.setattr("kdguard.runtime.gpu_check.engines.compute_capability", lambda: "8.9")


def builder(monkeypatch: pytest.MonkeyPatch, scale: float = 1.0) -> list[Any]:
    """Put the written-out model in the place of what the vendor builds; its last convolution may be off by a factor."""
    asked = []

    def build(source: Path, model: onnx.ModelProto, card: Any, engine: Path, kind: Any, _: Any, options: Any) -> None:
        asked.append((source.name, kind.name, options.gpus))
        made = written_out(model, options.precision)
        for tensor in made.graph.initializer:
            if tensor.name.startswith("weights_4"):
                tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor) * scale, tensor.name))
        write_engine(made, card, engine)

    monkeypatch.setattr("kdguard.runtime.engines.build.build_engine", build)
    return asked


@pytest.mark.usefixtures("onnxruntime_answers")
def test_engines_that_do_what_the_model_does(
    kernels: KernelsOnCpu, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = builder(monkeypatch)
    found = {result.what: result for result in engines.check(Context(kernels, tmp_path))}
    assert {what: result.state for what, result in found.items() if what.startswith(RTX)} == {
        f"{RTX}, fp32": "passed",
        f"{RTX}, fp16": "passed",
    }
    assert {result.state for what, result in found.items() if not what.startswith(RTX)} <= {"skipped", "passed"}
    assert ("hardened-fp16.onnx", "tensorrt-rtx", ["8.9"]) in asked


@pytest.mark.usefixtures("onnxruntime_answers")
def test_engines_that_do_not(kernels: KernelsOnCpu, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    builder(monkeypatch, scale=1.1)
    found = [result for result in engines.check(Context(kernels, tmp_path)) if result.what.startswith(RTX)]
    assert [result.state for result in found] == ["failed", "failed"]
    assert all(result.error is not None and result.error > (result.limit or 0) for result in found)


def test_a_vendor_that_refuses(kernels: KernelsOnCpu, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any) -> None:
        raise UserError("TensorRT-RTX cannot build this model: no")

    monkeypatch.setattr("kdguard.runtime.engines.build.build_engine", refuse)
    context = Context(kernels, tmp_path, small=True)
    found = [result for result in engines.check(context) if result.what.startswith(RTX)]
    assert {(r.state, r.reason) for r in found} == {("failed", "TensorRT-RTX cannot build this model: no")}
    timed = [timing for timing in engine_latency.measure(context) if timing.what.startswith(RTX)]
    assert {(t.state, t.reason) for t in timed} == {("failed", "TensorRT-RTX cannot build this model: no")}


def test_a_gpu_that_it_does_not_build_for(
    kernels: KernelsOnCpu, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("kdguard.runtime.gpu_check.engines.compute_capability", lambda: "9.0")
    found = [result for result in engines.check(Context(kernels, tmp_path)) if result.what.startswith(RTX)]
    assert [result.state for result in found] == ["skipped", "skipped"]
    assert all("builds for no GPU of compute capability 9.0" in result.reason for result in found)


@pytest.mark.usefixtures("onnxruntime_answers")
def test_hardened_over_clean(kernels: KernelsOnCpu, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    builder(monkeypatch)
    timings = [t for t in engine_latency.measure(Context(kernels, tmp_path, small=True)) if t.what.startswith(RTX)]
    assert [timing.state for timing in timings] == ["timed", "timed"]
    for timing in timings:
        assert list(timing.milliseconds) == ["clean", "paired", "in-path"]
        assert list(timing.ratios) == ["paired / clean", "in-path / clean"]
        assert min(timing.milliseconds.values()) > 0
        assert timing.rounds == engine_latency.SMALL_ROUNDS
