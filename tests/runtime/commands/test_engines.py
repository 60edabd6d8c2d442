"""Engines where a hardened model may stand: `verify` and `attack`, with onnxruntime in the vendor's place."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from kdguard.export.model_card import ModelCard
from kdguard.export.onnx_files import save_onnx
from kdguard.runtime.engines.manifest import manifest_path
from kdguard.runtime.gpu import compute_capability
from tests.conftest import make_conv_net
from tests.graph_passes.test_write_out_functions import hardened
from tests.runtime.commands.command_line import CommandLine
from tests.runtime.engines.engine_files import onnxruntime_answers, write_engine

__all__ = ["onnxruntime_answers"]


@pytest.fixture
def engine(card: ModelCard, tmp_path: Path) -> Path:
    paired = hardened(make_conv_net())
    return write_engine(paired, card, tmp_path / "shipped.engine")


@pytest.mark.usefixtures("onnxruntime_answers")
def test_verify(kdguard: CommandLine, conv_net_file: Path, pairs_folder: Path, engine: Path, tmp_path: Path) -> None:
    report = tmp_path / "verify.json"
    kdguard("verify", conv_net_file, engine, "--data", pairs_folder, "--json", report)
    found = json.loads(report.read_text())
    assert (found["provider"], found["kernels"], found["hardened_layers"]) == ("TensorRT-RTX 1.0", "function", 2)
    assert found["n"] == 4


@pytest.mark.usefixtures("onnxruntime_answers")
def test_a_teacher_without_a_card_takes_the_engines(
    kdguard: CommandLine, pairs_folder: Path, engine: Path, tmp_path: Path
) -> None:
    save_onnx(make_conv_net(), tmp_path / "bare.onnx")
    assert kdguard("verify", tmp_path / "bare.onnx", engine, "--data", pairs_folder) in (0, 1), kdguard.err
    assert "different model cards" not in kdguard.err


@pytest.mark.skipif(compute_capability() is not None, reason="there is a GPU")
def test_what_this_machine_cannot_run(
    kdguard: CommandLine, conv_net_file: Path, pairs_folder: Path, engine: Path
) -> None:
    pytest.importorskip("tensorrt_rtx")
    data = ("--data", pairs_folder)
    for command in (("verify", conv_net_file, engine), ("attack", engine, "--teacher", conv_net_file)):
        assert "this machine has none" in kdguard.refuses(*command, *data, code=3)
    assert "runs on a GPU only" in kdguard.refuses("verify", conv_net_file, engine, *data, "--provider", "cpu", code=3)


@pytest.mark.usefixtures("onnxruntime_answers")
def test_bench(kdguard: CommandLine, engine: Path, card: ModelCard, tmp_path: Path) -> None:
    clean = write_engine(make_conv_net(), card, tmp_path / "clean.engine")
    report = tmp_path / "bench.json"
    options = ("--size", "64x64", "--rounds", 7, "--json", report, "--plot", tmp_path / "bench.svg")
    assert kdguard("bench", engine, "--teacher", clean, *options) == 0, kdguard.err
    (found,) = json.loads(report.read_text())["providers"]
    assert (found["provider"], found["runs_on"]) == ("tensorrt-rtx", "TensorRT-RTX 1.0, fp32")
    assert found["slowdown"]["n"] == 7
    assert found["memory"] is None
    assert "build it with other --shapes" in kdguard.refuses("bench", engine, "--teacher", clean, "--size", "512x512")


def test_an_engine_is_timed_against_an_engine(kdguard: CommandLine, engine: Path, conv_net_file: Path) -> None:
    for hardened_file, teacher in ((engine, conv_net_file), (conv_net_file, engine)):
        line = kdguard.refuses("bench", hardened_file, "--teacher", teacher)
        assert "an engine is timed against an engine" in line


def test_damaged_and_nameless(kdguard: CommandLine, conv_net_file: Path, pairs_folder: Path, engine: Path) -> None:
    data = ("--data", pairs_folder)
    engine.write_bytes(engine.read_bytes()[:-1])
    assert "is not the file that its manifest speaks of" in kdguard.refuses("verify", conv_net_file, engine, *data)
    manifest_path(engine).unlink()
    assert "has no manifest" in kdguard.refuses("attack", engine, "--teacher", conv_net_file, *data)
