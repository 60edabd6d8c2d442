"""`kdguard build`."""

from __future__ import annotations

import json
from importlib.util import find_spec
from pathlib import Path

import pytest

from kdguard.export.files import sha256_of_file
from kdguard.export.model_card import ModelCard, write_card
from kdguard.export.onnx_files import save_onnx
from kdguard.runtime.gpu import has_gpu
from tests.conftest import make_conv_net
from tests.graph_passes.test_write_out_functions import hardened
from tests.runtime.commands.command_line import CommandLine, listing
from tests.runtime.test_float_edges import computing

needs_rtx = pytest.mark.skipif(find_spec("tensorrt_rtx") is None, reason="TensorRT-RTX is not installed")


@pytest.fixture
def model_file(tmp_path: Path) -> Path:
    model = hardened(make_conv_net())
    write_card(model, ModelCard(task="deraining", input_name="image", output_name="restored"))
    save_onnx(model, tmp_path / "hardened.onnx")
    return tmp_path / "hardened.onnx"


@needs_rtx
def test_builds(kdguard: CommandLine, model_file: Path, tmp_path: Path) -> None:
    out, report = tmp_path / "engine.plan", tmp_path / "build.json"
    sizes = ("--shapes", "32x32", "64x64", "96x96")
    assert kdguard("build", model_file, "-o", out, *sizes, "--precision", "fp16", "--json", report) == 0, kdguard.err
    assert "fp16, images of 32x32 to 96x96" in " ".join(kdguard.out.split())
    assert json.loads(report.read_text())["engine_sha256"] == sha256_of_file(out)
    assert listing(tmp_path) == ["build.json", "engine.plan", "engine.plan.json", "hardened.onnx"]
    again = kdguard.refuses("build", out, "-o", tmp_path / "another.plan")
    assert f"{out}: a TensorRT engine, not an ONNX file; give the model that it was built from" in again


@needs_rtx
def test_imports_nothing_from_where_the_user_is(
    kdguard: CommandLine, model_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "polygraphy.py").write_text("raise SystemExit('planted')")
    assert kdguard("build", model_file, "-o", "e.plan", "--shapes", "32x32", "32x32", "32x32") == 0, kdguard.err


@needs_rtx
def test_refuses(kdguard: CommandLine, model_file: Path, tmp_path: Path) -> None:
    out = tmp_path / "engine.plan"
    assert "'32' is no image size" in kdguard.refuses(
        "build", model_file, "-o", out, "--shapes", "32", "64x64", "96x96"
    )
    assert "is a folder" in kdguard.refuses("build", model_file, "-o", ".")
    assert "TensorRT-RTX builds for its own version" in kdguard.refuses(
        "build", model_file, "-o", out, "--version-compatible"
    )
    assert "TensorRT-RTX does so by itself" in kdguard.refuses("build", model_file, "-o", out, "--hardware-compatible")
    cache = ("--timing-cache", tmp_path / "timing.cache")
    assert "TensorRT-RTX times nothing" in kdguard.refuses("build", model_file, "-o", out, *cache)
    assert "'sm_89' is no compute capability" in kdguard.refuses("build", model_file, "-o", out, "--gpu", "sm_89")
    assert "a name for a model" in kdguard.refuses("build", model_file, "-o", model_file)
    save_onnx(make_conv_net(), tmp_path / "no-card.onnx")
    assert "--task" in kdguard.refuses("build", tmp_path / "no-card.onnx", "-o", out)
    assert listing(tmp_path) == ["hardened.onnx", "no-card.onnx"]


def test_a_gpu_for_tensorrt(kdguard: CommandLine, model_file: Path, tmp_path: Path) -> None:
    line = kdguard.refuses("build", model_file, "-o", tmp_path / "e", "--engine", "tensorrt", "--gpu", "8.9")
    assert "--gpu: TensorRT builds for the GPU that it runs on" in line


@pytest.mark.skipif(find_spec("tensorrt") is not None, reason="TensorRT is installed")
def test_without_the_package(kdguard: CommandLine, model_file: Path, tmp_path: Path) -> None:
    line = kdguard.refuses("build", model_file, "-o", tmp_path / "e.plan", "--engine", "tensorrt", code=3)
    assert "TensorRT is not installed (Python package tensorrt); pip install 'kdguard[trt]'" in line
    assert listing(tmp_path) == ["hardened.onnx"]


def test_the_manifest_replaces_nothing_that_was_read(kdguard: CommandLine, model_file: Path, tmp_path: Path) -> None:
    model = tmp_path / "e.json"
    model.write_bytes(model_file.read_bytes())
    (tmp_path / "hardened.manifest.json").write_text("{}")
    for arguments in ((model, "-o", tmp_path / "e"), (model_file, "-o", tmp_path / "hardened.manifest")):
        assert "that is the input" in kdguard.refuses("build", *arguments)
    assert model.read_bytes() == model_file.read_bytes()
    for name in ("e.onnx", "e.PT"):
        assert "a name for a model" in kdguard.refuses("build", model_file, "-o", tmp_path / name)


@needs_rtx
@pytest.mark.skipif(has_gpu(), reason="a GPU has the kernels")
def test_what_cannot_be_run_here_needs_a_card(kdguard: CommandLine, tmp_path: Path) -> None:
    path = tmp_path / "bf16.onnx"
    model = computing()
    save_onnx(model, path)
    build = ("build", path, "-o", tmp_path / "e.engine", "--shapes", "32x32", "32x32", "32x32")
    line = kdguard.refuses(*build, "--task", "denoising", code=3)
    assert "has no card" in line
    assert "harden it with --data where it runs: the file then has a card" in line
    write_card(model, ModelCard(task="denoising", input_name="image", output_name="restored"))
    save_onnx(model, path)
    assert kdguard(*build) == 0, kdguard.err
    assert "bf16, images of 32x32" in " ".join(kdguard.out.split())


@needs_rtx
def test_what_a_model_without_a_card_does_not_say(kdguard: CommandLine, tmp_path: Path) -> None:
    save_onnx(hardened(make_conv_net()), tmp_path / "bare.onnx")
    build = ("build", tmp_path / "bare.onnx", "-o", tmp_path / "e.engine", "--task", "denoising")
    sizes = ("--shapes", "32x32", "32x32", "32x32")
    assert kdguard(*build, *sizes) == 0, kdguard.err
    assert "does not state its value range: 0 to 1 taken; say --value-range if not" in kdguard.out
    assert kdguard(*build, *sizes, "--value-range", 0, 255) == 0, kdguard.err
    assert "taken" not in kdguard.out
    assert json.loads((tmp_path / "e.engine.json").read_text())["card"]["value_range"] == [0.0, 255.0]
