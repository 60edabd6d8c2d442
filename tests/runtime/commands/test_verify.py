"""What `verify` says of pairs that do not belong together, or where nothing is hardened."""

from __future__ import annotations

import json
from pathlib import Path

from onnx import helper

from kdguard.export.onnx_files import save_onnx
from tests.conftest import conv_weights, make_conv_net, make_model
from tests.runtime.commands.command_line import CommandLine

NOTHING = "the second model holds no kdguard nodes: nothing is hardened in it"


def test_nothing_hardened_is_said_and_still_measured(
    kdguard: CommandLine, conv_net_file: Path, pairs_folder: Path, tmp_path: Path
) -> None:
    hardened, report = tmp_path / "h.onnx", tmp_path / "r.json"
    assert kdguard("harden", conv_net_file, "-o", hardened, "--layers", "b,d") == 0, kdguard.err
    for second, layers in ((hardened, 2), (conv_net_file, 0)):
        assert kdguard("verify", conv_net_file, second, "--data", pairs_folder, "--json", report) == 0, kdguard.err
        assert (NOTHING in kdguard.out) == (layers == 0)
        found = json.loads(report.read_text())
        assert found["hardened_layers"] == layers
        assert found["n"] == 4


def test_another_teacher_is_named_where_the_gate_fails(
    kdguard: CommandLine, conv_net_file: Path, pairs_folder: Path, tmp_path: Path
) -> None:
    hardened, other = tmp_path / "h.onnx", tmp_path / "other.onnx"
    wider = make_conv_net(width=12)
    wider.graph.node[-1].op_type = "Sub"
    save_onnx(wider, other)
    in_path = ["--layers", "b", "--placement", "in-path", "--gain", 10]
    assert kdguard("harden", conv_net_file, "-o", hardened, *in_path) == 0, kdguard.err
    said = f"{hardened} was hardened from another teacher than "
    line = kdguard.refuses("verify", other, hardened, "--data", pairs_folder, code=1)
    assert f"{said}{other}, by its manifest from teacher.onnx" in line
    assert said not in kdguard.refuses("verify", conv_net_file, hardened, "--data", pairs_folder, code=1)
    # A manifest that speaks of another file, or that nobody can read, says nothing.
    hardened.with_name("h.manifest.json").write_text("{")
    assert said not in kdguard.refuses("verify", other, hardened, "--data", pairs_folder, code=1)


def test_unequal_channels_are_one_line(
    kdguard: CommandLine, conv_net_file: Path, pairs_folder: Path, tmp_path: Path
) -> None:
    nodes = [helper.make_node("Conv", ["image", "w"], ["restored"], pads=[1, 1, 1, 1])]
    grey = tmp_path / "grey.onnx"
    save_onnx(make_model(nodes, {"w": conv_weights(0, 1, 1)}, shape=("n", 1, "h", "w")), grey)
    for pair in ((grey, conv_net_file), (conv_net_file, grey)):
        counts = "1 channel and the hardened model of 3 channels"
        if pair[1] == grey:
            counts = "3 channels and the hardened model of 1 channel"
        line = kdguard.refuses("verify", *pair, "--data", pairs_folder)
        assert f"{pair[0]} takes images of {counts}; is this its teacher?" in line
