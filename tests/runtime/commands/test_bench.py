"""`kdguard bench`: what it writes, and what it refuses. No time is asserted."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from kdguard.export.model_card import ModelCard, write_card
from kdguard.export.onnx_files import save_onnx
from kdguard.runtime.bench.results import Bench
from kdguard.runtime.gpu import has_gpu
from tests.conftest import make_conv_net
from tests.runtime.commands.command_line import CommandLine, listing

QUICK = ["--rounds", 2, "--threads", 1, "--size", "32x48"]


@pytest.fixture
def hardened(kdguard: CommandLine, conv_net_file: Path, tmp_path: Path) -> Path:
    path = tmp_path / "hardened.onnx"
    assert kdguard("harden", conv_net_file, "-o", path, "--layers", "b,d") == 0, kdguard.err
    return path


def test_table_json_and_plot(kdguard: CommandLine, conv_net_file: Path, hardened: Path, tmp_path: Path) -> None:
    written = tmp_path / "b.json"
    outputs = ["--json", written, "--plot", tmp_path / "b.svg"]
    assert kdguard("bench", hardened, "--teacher", conv_net_file, *QUICK, *outputs) == 0, kdguard.err
    for shown in (
        "CPUExecutionProvider",
        "hardened / clean",
        "by difference",
        "svd_lowrank / op",
        "b, d",
        "from 6 rounds on",
    ):
        assert shown in kdguard.out
    bench = Bench.model_validate(json.loads(written.read_text()))
    assert (bench.size, bench.input_shape, bench.rounds, bench.threads) == ([32, 48], [1, 3, 32, 48], 2, 1)
    assert bench.environment.processor
    assert bench.other_work.cores >= 1
    assert bench.environment.packages["onnxruntime-gpu"]
    found = bench.providers[0]
    assert (found.provider, found.runs_on, found.kernels) == ("cpu", "CPUExecutionProvider", "function")
    assert found.slowdown.n == found.clean.latency.n == found.hardened.latency.n == 2
    assert found.slowdown.ci95 is None
    assert found.hardened.images_per_second == pytest.approx(1000 / found.hardened.latency.median_ms)
    assert found.hardened.megapixels_per_second == pytest.approx(found.hardened.images_per_second * 32 * 48 / 1e6)
    assert found.op_share is not None
    assert found.op_share.share == pytest.approx(1 - 1 / found.slowdown.median)
    assert [(case.layers, case.shape) for case in found.op_alone] == [(["b", "d"], [1, 8, 32, 48])]
    assert "<svg" in (tmp_path / "b.svg").read_text()


@pytest.mark.skipif(has_gpu(), reason="a GPU runs what is lacking here")
def test_what_this_machine_lacks(kdguard: CommandLine, conv_net_file: Path, hardened: Path, tmp_path: Path) -> None:
    written = tmp_path / "b.json"
    command = ["bench", hardened, "--teacher", conv_net_file, *QUICK, "--json", written]
    line = kdguard.refuses(*command, "--providers", "cuda", code=3)
    assert "no provider to time on: cuda: onnxruntime does not run it here; it takes a GPU" in line
    assert not written.exists()
    assert kdguard(*command, "--providers", "cuda,cpu") == 0, kdguard.err
    assert "cuda is left out: onnxruntime does not run it here" in kdguard.out
    content = json.loads(written.read_text())
    assert [entry["provider"] for entry in content["providers"]] == ["cpu"]
    assert list(content["lacking"]) == ["cuda"]


def test_nothing_hardened_is_said_and_still_timed(kdguard: CommandLine, tmp_path: Path) -> None:
    """Here in a model of one size."""
    fixed, path, written = make_conv_net(), tmp_path / "fixed.onnx", tmp_path / "b.json"
    for axis, side in ((2, 40), (3, 56)):
        fixed.graph.input[0].type.tensor_type.shape.dim[axis].dim_value = side
    save_onnx(fixed, path)
    command = ["bench", path, "--teacher", path, "--task", "deraining", "--rounds", 1]
    assert "--size: the model takes images of 40x56 only" in kdguard.refuses(*command, "--size", "56x40")
    assert kdguard(*command, "--json", written, "--plot", tmp_path / "b.PNG") == 0, kdguard.err
    assert f"{path} holds no kdguard nodes: nothing is hardened in it" in kdguard.out
    assert "The op alone" not in kdguard.out
    content = json.loads(written.read_text())
    assert content["size"] == [40, 56]
    (found,) = content["providers"]
    assert (found["kernels"], found["op_share"], found["op_alone"]) == ("none", None, [])
    assert (tmp_path / "b.PNG").read_bytes().startswith(b"\x89PNG")


def test_another_teacher_is_said(kdguard: CommandLine, hardened: Path, tmp_path: Path) -> None:
    other = tmp_path / "other.onnx"
    model = make_conv_net(width=12)
    write_card(model, ModelCard(task="deraining", input_name="image", output_name="restored"))
    save_onnx(model, other)
    assert kdguard("bench", hardened, "--teacher", other, *QUICK) == 0, kdguard.err
    assert f"{hardened} was hardened from another teacher than {other}" in kdguard.out


def test_what_is_refused(kdguard: CommandLine, conv_net_file: Path, hardened: Path, tmp_path: Path) -> None:
    words = tmp_path / "words.onnx"
    words.write_text("words")
    given = ["bench", hardened, "--teacher", conv_net_file, "--json", tmp_path / "b.json", "--plot", tmp_path / "b.svg"]
    before = listing(tmp_path)
    for more, line in (
        (["--rounds", 0], "--rounds: 0 is too small; give 1 or more"),
        (["--threads", 0], "--threads: 0 is too small; give 1 or more"),
        (["--providers", "tensorrt"], "--providers: tensorrt is not allowed; give cpu or cuda"),
        (["--providers", ","], "no name in ','"),
        (["--size", "big"], "--size: 'big' is no image size; write HEIGHTxWIDTH, 720x1280 say"),
        (["--size-multiple", 16, "--size", "40x48"], "--size: 40x48 is no multiple of 16"),
        (["--plot", tmp_path / "b.pdf"], "give a name that ends in .svg or .png"),
        (["--json", hardened], "that is the input"),
        (["--json", tmp_path / "b.svg"], "also another output"),
        (["--teacher", words], "words.onnx: not an ONNX file"),
        (["--teacher", tmp_path / "none.onnx"], "none.onnx: no such file"),
        (["--task", "dehazing"], "--task says dehazing; drop --task"),
    ):
        assert line in kdguard.refuses(*given, *more), more
        assert listing(tmp_path) == before
    line = kdguard.refuses("bench", conv_net_file, "--teacher", hardened)
    assert "the two look swapped; exchange them" in line
