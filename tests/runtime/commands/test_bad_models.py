"""Models that cannot be used: one clear line with the path, exit code 2, nothing half-written."""

from __future__ import annotations

from pathlib import Path

import onnx
import pytest
from onnx import helper

from tests.conftest import conv_weights, make_conv_net, make_model
from tests.runtime.commands.command_line import CommandLine, listing


def flat_input() -> bytes:
    nodes = [helper.make_node("Relu", ["image"], ["restored"])]
    return make_model(nodes, {}, shape=("n", 10)).SerializeToString()


def outside_data() -> bytes:
    model = make_conv_net()
    weight = model.graph.initializer[0]
    weight.ClearField("raw_data")
    weight.data_location = onnx.TensorProto.EXTERNAL
    weight.external_data.add(key="location", value="../../etc/passwd")
    return model.SerializeToString()


BAD_MODELS = {
    "missing": (None, "no such file"),
    "text": (b"just some words\n", "not an ONNX file"),
    "truncated": (make_conv_net().SerializeToString()[:1000], "truncated"),
    "external data outside": (outside_data(), "outside the model's folder"),
    "no image input": (flat_input(), "exactly one 4-D"),
}


@pytest.mark.parametrize("name", BAD_MODELS)
@pytest.mark.parametrize("command", ["harden", "verify", "attack", "bench"])
def test_bad_models(kdguard: CommandLine, tmp_path: Path, pairs_folder: Path, name: str, command: str) -> None:
    content, reason = BAD_MODELS[name]
    model = tmp_path / "model.onnx"
    if content is not None:
        model.write_bytes(content)
    common = ["--data", pairs_folder, "--task", "deraining"]
    arguments = {
        "harden": [model, "-o", tmp_path / "h.onnx", "--layers", "*", *common],
        "verify": [model, model, *common],
        "attack": [model, "--teacher", model, *common],
        "bench": [model, "--teacher", model, "--task", "deraining"],
    }[command]
    before = listing(tmp_path)
    line = kdguard.refuses(command, *arguments)
    assert reason in line
    assert str(model) in line
    assert listing(tmp_path) == before


def test_glob_that_matches_nothing(kdguard: CommandLine, conv_net_file: Path, tmp_path: Path) -> None:
    before = listing(tmp_path)
    line = kdguard.refuses("harden", conv_net_file, "-o", tmp_path / "h.onnx", "--layers", "encoder.*")
    assert "'encoder.*' matches none of the 5 feature maps (a, b, c, d, tail)" in line
    assert listing(tmp_path) == before


def test_external_data_is_an_input_too(kdguard: CommandLine, tmp_path: Path) -> None:
    model = tmp_path / "model.onnx"
    onnx.save_model(make_conv_net(), str(model), save_as_external_data=True, location="w.bin", size_threshold=0)
    before = (tmp_path / "w.bin").read_bytes()
    assert "that is the input" in kdguard.refuses("harden", model, "-o", tmp_path / "w.bin", "--layers", "b")
    assert (tmp_path / "w.bin").read_bytes() == before


def test_names_with_markup_are_shown_as_they_are(kdguard: CommandLine, tmp_path: Path) -> None:
    model = make_conv_net()
    for node in model.graph.node:
        for names in (node.input, node.output):
            names[:] = ["[/]" if name == "b" else name for name in names]
    path = tmp_path / "[ok].onnx"
    path.write_bytes(model.SerializeToString())
    assert kdguard("inspect", path) == 0
    assert "[/]" in kdguard.out
    assert "[ok].onnx" in kdguard.out


def test_models_that_do_not_belong_together(
    kdguard: CommandLine, conv_net_file: Path, pairs_folder: Path, tmp_path: Path
) -> None:
    nodes = [
        helper.make_node("Conv", ["image", "w"], ["deep"], pads=[1, 1, 1, 1]),
        helper.make_node("DepthToSpace", ["deep"], ["restored"], blocksize=2),
    ]
    larger = make_model(nodes, {"w": conv_weights(0, 12, 3)}, output_shape=("n", 3, "h2", "w2"))
    path = tmp_path / "larger.onnx"
    path.write_bytes(larger.SerializeToString())
    for arguments in (["verify", conv_net_file, path], ["attack", path, "--teacher", conv_net_file, "--tap", "a"]):
        line = kdguard.refuses(*arguments, "--data", pairs_folder)
        assert "right model" in line or "not a tensor of the hardened model" in line


@pytest.mark.parametrize("location", ["a\0b", "loop", "../out"])
def test_hostile_external_data_is_one_line_everywhere(kdguard: CommandLine, tmp_path: Path, location: str) -> None:
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    model = make_conv_net()
    weight = model.graph.initializer[0]
    weight.ClearField("raw_data")
    weight.data_location = onnx.TensorProto.EXTERNAL
    weight.external_data.add(key="location", value=location)
    path = tmp_path / "hostile.onnx"
    path.write_bytes(model.SerializeToString())
    assert str(path) in kdguard.refuses("inspect", path)
    assert str(path) in kdguard.refuses("harden", path, "-o", tmp_path / "h.onnx", "--layers", "b")
