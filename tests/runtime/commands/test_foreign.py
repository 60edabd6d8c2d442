"""Anybody's ONNX on the command line: what the model does not say, the options do."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from kdguard.export.model_card import read_card
from kdguard.export.onnx_files import load_onnx, save_onnx
from tests.conftest import make_conv_net
from tests.foreign_models import in_value_range, nhwc_net, with_input_shape, with_noise_level
from tests.runtime.commands.command_line import CommandLine


def test_from_a_bare_model_to_verify_and_attack(kdguard: CommandLine, pairs_folder: Path, tmp_path: Path) -> None:
    model = with_input_shape(with_noise_level(in_value_range(0, 255), [1]), 1, 3, 32, 32)
    save_onnx(model, tmp_path / "t.onnx")
    said = ["--task", "denoising", "--data", pairs_folder, "--extra-input", "level=1"]
    code = kdguard("harden", tmp_path / "t.onnx", "-o", tmp_path / "h.onnx", "--layers", "smooth", *said)
    assert code == 0, kdguard.err
    assert "value range 0 to 255 taken" in kdguard.out
    card = read_card(load_onnx(tmp_path / "h.onnx"))
    assert card is not None
    assert (card.value_range, card.extra_inputs, card.fixed_size) == ((0.0, 255.0), {"level": [1.0]}, (32, 32))
    # From here on the hardened file knows it all.
    assert kdguard("verify", tmp_path / "t.onnx", tmp_path / "h.onnx", "--data", pairs_folder) == 0, kdguard.err
    code = kdguard(
        "attack", tmp_path / "h.onnx", "--teacher", tmp_path / "t.onnx", "--data", pairs_folder, "--seeds", 1,
        "--steps", 1, "--tiles", 2, "--recipes", "fitnets",
    )  # fmt: skip
    assert code == 0, kdguard.err
    assert "2 tiles of 32 px" in kdguard.out


def test_two_bare_models_need_the_same_options(kdguard: CommandLine, pairs_folder: Path, tmp_path: Path) -> None:
    path = tmp_path / "t.onnx"
    save_onnx(with_noise_level(nhwc_net(), [1]), path)
    common = [path, path, "--data", pairs_folder, "--task", "denoising"]
    assert "--extra-input level=VALUE" in kdguard.refuses("verify", *common)
    code = kdguard("verify", *common, "--extra-input", "level=1", "--layout", "NHWC", "--value-range", -1, 1)
    assert code == 0, kdguard.err
    assert "taken" not in kdguard.out


def test_inspect_works_out_a_card(kdguard: CommandLine, tmp_path: Path) -> None:
    path = tmp_path / "t.onnx"
    save_onnx(with_input_shape(make_conv_net(), 2, 3, 24, 32), path)
    assert kdguard("inspect", path) == 0
    assert "model card: none" in kdguard.out
    assert kdguard("inspect", path, "--task", "dehazing", "--value-range", 0, 255) == 0
    assert "range 0 to 255" in kdguard.out
    assert "images of 32x24 only, batch 2" in kdguard.out
    assert "say it with --task" in kdguard.refuses("inspect", path, "--value-range", 0, 255)


def test_old_opsets_are_said(kdguard: CommandLine, pairs_folder: Path, tmp_path: Path) -> None:
    save_onnx(make_conv_net(opset=11), tmp_path / "t.onnx")
    common = ["--layers", "b", "--task", "denoising", "--data", pairs_folder]
    assert kdguard("harden", tmp_path / "t.onnx", "-o", tmp_path / "h.onnx", *common) == 0, kdguard.err
    assert "converted from opset 11" in kdguard.out


def test_inspect_measures_old_opsets_as_harden_does(kdguard: CommandLine, pairs_folder: Path, tmp_path: Path) -> None:
    path, report = tmp_path / "t.onnx", tmp_path / "r.json"
    for opset, converted in ((13, 13), (17, None)):
        save_onnx(make_conv_net(opset=opset), path)
        said = ["--task", "denoising", "--data", pairs_folder, "--json", report]
        assert kdguard("inspect", path, *said) == 0, kdguard.err
        assert ("converted from opset 13" in kdguard.out) == (opset == 13)
        found = json.loads(report.read_text())
        assert found["converted_from_opset"] == converted
        measured = {layer["name"]: layer["sensitivity_db"] for layer in found["analysis"]["layers"]}
        assert list(measured) == ["a", "b", "c", "d", "tail"]
        assert all(loss is not None for loss in measured.values())
    save_onnx(make_conv_net(opset=13), path)
    assert kdguard("inspect", path) == 0
    assert "converted" not in kdguard.out


@pytest.mark.parametrize(
    ("said", "reason"),
    [
        (["--extra-input", "level"], "NAME=VALUE"),
        (["--extra-input", "level=high"], "NAME=VALUE"),
        (["--extra-input", "=1"], "NAME=VALUE"),
        (["--extra-input", "level=nan"], "--extra-input"),
        (["--extra-input", "level=1", "--extra-input", "level=2"], "given twice"),
        (["--extra-input", "sigma=1"], "no such input; it has image, level"),
        (["--extra-input", "level=1,2,3"], "cannot be filled with 3 values"),
        (["--extra-input", "level=1", "--value-range", 1, 0], "white must be above black"),
        (["--extra-input", "level=1", "--size-multiple", 5000], "--size-multiple"),
        (["--extra-input", "level=1", "--layout", "NHWC"], "channels"),
    ],
)
def test_what_no_model_takes(
    kdguard: CommandLine, pairs_folder: Path, tmp_path: Path, said: list[object], reason: str
) -> None:
    model = with_input_shape(with_noise_level(make_conv_net(), [1]), 1, 3, 32, 32)
    save_onnx(model, tmp_path / "t.onnx")
    common = ["--layers", "b", "--task", "denoising", "--data", pairs_folder]
    line = kdguard.refuses("harden", tmp_path / "t.onnx", "-o", tmp_path / "h.onnx", *common, *said)
    assert reason in line
    assert not (tmp_path / "h.onnx").exists()
