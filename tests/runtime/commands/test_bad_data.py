"""Images that do not fit the model: padded where that helps, one line that names the image where not."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import helper
from PIL import Image as PilImage

from kdguard.export.onnx_files import save_onnx
from tests.conftest import conv_weights, make_conv_net, make_model, photograph
from tests.foreign_models import with_input_shape
from tests.runtime.commands.command_line import CommandLine


def brightest_is_one() -> onnx.ModelProto:
    """`make_conv_net` whose result is divided by the brightest pixel: NaN on a black image."""
    model = make_conv_net()
    model.graph.node[-1].output[0] = "sum"
    model.graph.node.append(helper.make_node("ReduceMax", ["image"], ["peak"], keepdims=0))
    model.graph.node.append(helper.make_node("Div", ["peak", "peak"], ["one"]))
    model.graph.node.append(helper.make_node("Mul", ["sum", "one"], ["restored"]))
    return model


def multiple_of(stride: int) -> onnx.ModelProto:
    """Down by `stride` and up again, added to the image: no other sizes run."""
    rng = np.random.default_rng(1)
    weights = {
        "down": conv_weights(0, 8, 3),
        "up": rng.standard_normal((8, 3, stride, stride)).astype(np.float32) * np.float32(0.02),
    }
    strides = {"strides": [stride, stride]}
    nodes = [
        helper.make_node("Conv", ["image", "down"], ["low"], "conv_low", pads=[1, 1, 1, 1], **strides),
        helper.make_node("Relu", ["low"], ["kept"], "relu"),
        helper.make_node("ConvTranspose", ["kept", "up"], ["high"], "deconv", **strides),
        helper.make_node("Add", ["image", "high"], ["restored"], "add_out"),
    ]
    return make_model(nodes, weights)


def write_pairs(write_images: Callable[..., None], folder: Path, *sizes: tuple[int, int]) -> Path:
    for index, (height, width) in enumerate(sizes):
        clean = photograph(130)[:height, :width]
        noise = np.random.default_rng(index).normal(0, 12, clean.shape)
        write_images(folder / "clean", **{f"p{index}": clean})
        write_images(folder / "degraded", **{f"p{index}": np.clip(clean + noise, 0, 255).astype(np.uint8)})
    return folder


@pytest.mark.parametrize(
    ("model", "layer", "sizes"),
    [
        (multiple_of(8), "kept", [(37, 45), (64, 50)]),
        (multiple_of(32), "kept", [(45, 31), (12, 33)]),
        (with_input_shape(make_conv_net(), 1, 3, 64, 96), "b", [(37, 45), (12, 100), (11, 11)]),
    ],
)
def test_sizes_that_do_not_fit(
    model: onnx.ModelProto,
    layer: str,
    sizes: list[tuple[int, int]],
    kdguard: CommandLine,
    write_images: Callable[..., None],
    tmp_path: Path,
) -> None:
    save_onnx(model, tmp_path / "t.onnx")
    data = write_pairs(write_images, tmp_path / "pairs", *sizes)
    common = ["--layers", layer, "--gain", "10", "--task", "denoising", "--data", data, "--json", tmp_path / "m.json"]
    assert kdguard("harden", tmp_path / "t.onnx", "-o", tmp_path / "h.onnx", *common) == 0, kdguard.err
    fidelity = json.loads((tmp_path / "m.json").read_text())["fidelity"]
    assert fidelity["n"] == len(sizes)
    assert fidelity["psnr_between_db"] > 100
    assert 15 < fidelity["teacher"]["psnr"] < 60


def test_nan_names_the_image(kdguard: CommandLine, write_images: Callable[..., None], tmp_path: Path) -> None:
    save_onnx(brightest_is_one(), tmp_path / "t.onnx")
    data = write_pairs(write_images, tmp_path / "pairs", (32, 32), (32, 34), (32, 32))
    for kind in ("clean", "degraded"):
        write_images(data / kind, p2=np.zeros((32, 32, 3), np.uint8))
    common = ["--task", "denoising", "--data", data, "--value-range", 0, 1]
    line = kdguard.refuses("harden", tmp_path / "t.onnx", "-o", tmp_path / "h.onnx", "--layers", "b", *common)
    assert "'p2.png'" in line
    assert "NaN" in line
    assert not (tmp_path / "h.onnx").exists()
    assert "'p2.png'" in kdguard.refuses("verify", tmp_path / "t.onnx", tmp_path / "t.onnx", *common)
    few = ["--test-data", write_pairs(write_images, tmp_path / "test", (40, 40)), "--tiles", 3, "--tap", "b"]
    line = kdguard.refuses("attack", tmp_path / "t.onnx", "--teacher", tmp_path / "t.onnx", *common, *few)
    assert "'p2.png#1'" in line


def test_floating_point_images_are_named(
    kdguard: CommandLine, write_images: Callable[..., None], tmp_path: Path
) -> None:
    save_onnx(make_conv_net(), tmp_path / "t.onnx")
    data = write_pairs(write_images, tmp_path / "pairs", (32, 32))
    values = np.full((32, 32), np.nan, np.float32)
    for kind in ("clean", "degraded"):
        PilImage.fromarray(values).save(data / kind / "nan.tiff")
    common = ["--layers", "b", "--task", "denoising", "--data", data]
    line = kdguard.refuses("harden", tmp_path / "t.onnx", "-o", tmp_path / "h.onnx", *common)
    assert "nan.tiff: floating-point images are not read" in line


def test_too_small_to_score_is_named(kdguard: CommandLine, write_images: Callable[..., None], tmp_path: Path) -> None:
    save_onnx(make_conv_net(), tmp_path / "t.onnx")
    data = write_pairs(write_images, tmp_path / "pairs", (5, 5))
    common = ["--layers", "b", "--task", "denoising", "--data", data]
    line = kdguard.refuses("harden", tmp_path / "t.onnx", "-o", tmp_path / "h.onnx", *common)
    assert "'p0.png' is 5x5: too small to score" in line
