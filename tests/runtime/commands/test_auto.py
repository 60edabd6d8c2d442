"""`kdguard harden` choosing by itself: every placement, what the manifest says, and input that cannot work."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto

from kdguard.export.onnx_files import load_onnx, save_onnx
from kdguard.graph_passes.inventory import hardened_layers
from kdguard.graph_passes.layers import find_layers
from kdguard.runtime.wording import change
from tests.awkward_graphs import attention
from tests.conftest import make_conv_net
from tests.foreign_models import with_input_shape
from tests.runtime.commands.command_line import CommandLine
from tests.runtime.commands.test_bad_data import brightest_is_one, multiple_of, write_pairs
from tests.runtime.commands.test_bad_input import listing

COMMON = ["--task", "denoising", "--value-range", 0, 1]


@pytest.fixture
def six_pairs(tmp_path: Path, write_noisy_pairs: Callable[[Path, int], Path]) -> Path:
    return write_noisy_pairs(tmp_path / "six", 6)


@pytest.fixture
def teacher(tmp_path: Path) -> Path:
    save_onnx(make_conv_net(), tmp_path / "t.onnx")
    return tmp_path / "t.onnx"


@pytest.mark.parametrize(
    ("placement", "expected"),
    [
        ("auto", {"paired", "compensated"}),
        ("paired", {"paired"}),
        ("compensated", {"compensated"}),
        ("in-path", {"in-path"}),
    ],
)
def test_every_placement(
    kdguard: CommandLine, teacher: Path, six_pairs: Path, tmp_path: Path, placement: str, expected: set[str]
) -> None:
    output, report, cache = tmp_path / "h.onnx", tmp_path / "m.json", tmp_path / "cache"
    arguments = [teacher, "-o", output, "--data", six_pairs, "--placement", placement, "--cache", cache, *COMMON]
    assert kdguard("harden", *arguments, "--json", report) == 0, kdguard.err
    manifest = json.loads(report.read_text())
    layers = manifest["layers"]
    assert {entry["placement"] for entry in layers} == expected
    assert all(entry["reason"] and entry["relative_distortion"] > 0.01 for entry in layers)
    assert manifest["rules"][0].startswith("1." if placement != "compensated" else "7.")
    assert manifest["fidelity"]["within_budget"]
    assert manifest["fidelity"]["n"] == 1  # every fourth is for the gates
    assert bool(manifest["coverage"]) == (placement in ("auto", "paired"))
    hardened = load_onnx(output)
    assert {layer.name for layer in find_layers(hardened)} == {"a", "b", "c", "d", "tail"}
    assert {entry.layer for entry in hardened_layers(hardened)} == {entry["layer"] for entry in layers}
    assert ([entry["refitted"] for entry in layers if entry["layer"] == "d"] == [["tail"]]) == (
        "compensated" in expected
    )
    strip = manifest["strip"]
    assert f"deletes our nodes {change(strip['stripped_loss_db'])}" in kdguard.out
    assert manifest["estimated_slowdown"] > 1
    assert f"estimated time {manifest['estimated_slowdown']:.2f} of the clean model's" in kdguard.out
    assert (strip["refitted_loss_db"] is None) == ("compensated" not in expected)
    if "compensated" in expected:
        assert strip["stripped_loss_db"] > 0.3
        assert abs(strip["refitted_loss_db"]) < 0.5 * strip["stripped_loss_db"]
    if placement == "paired":
        assert abs(strip["stripped_loss_db"]) < 1e-3
    assert len(listing(cache)) == 1
    assert kdguard("verify", teacher, output, "--data", six_pairs, *COMMON) == 0, kdguard.err


def test_the_same_command_writes_the_same_file(
    kdguard: CommandLine, teacher: Path, six_pairs: Path, tmp_path: Path
) -> None:
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        arguments = ["--data", six_pairs, "--placement", "paired", "--seed", seed, *COMMON]
        assert kdguard("harden", teacher, "-o", tmp_path / f"{name}.onnx", *arguments) == 0, kdguard.err
    first, second, other = ((tmp_path / f"{name}.onnx").read_bytes() for name in "abc")
    assert first == second
    assert first != other


def test_tile_safe(kdguard: CommandLine, six_pairs: Path, tmp_path: Path) -> None:
    """The op sees a whole tile: what it does in-path differs between tiles and the whole image."""
    teacher, report = tmp_path / "t.onnx", tmp_path / "m.json"
    save_onnx(make_conv_net(16), teacher)
    arguments = [teacher, "-o", tmp_path / "h.onnx", "--data", six_pairs, "--json", report, *COMMON]
    line = kdguard.refuses("harden", *arguments, "--placement", "in-path", "--tile-safe", code=1)
    assert "shows seams in tiles" in line
    assert not (tmp_path / "h.onnx").exists()
    assert kdguard("harden", *arguments, "--placement", "paired", "--tile-safe") == 0, kdguard.err
    tiling = json.loads(report.read_text())["tiling"]
    assert min(tiling["hardened_db"], 100) > min(tiling["clean_db"], 100) - 1


@pytest.mark.parametrize(
    ("build", "sizes"),
    [
        (lambda: multiple_of(8), [(12, 33), (37, 45), (41, 33), (64, 50)]),
        (lambda: with_input_shape(make_conv_net(), 1, 3, 32, 40), [(37, 45), (12, 100), (60, 70), (48, 48)]),
    ],
)
def test_sizes_that_do_not_fit(
    build: Callable[[], onnx.ModelProto],
    sizes: list[tuple[int, int]],
    kdguard: CommandLine,
    write_images: Callable[..., None],
    tmp_path: Path,
) -> None:
    save_onnx(build(), tmp_path / "t.onnx")
    data = write_pairs(write_images, tmp_path / "pairs", *sizes)
    assert kdguard("harden", tmp_path / "t.onnx", "-o", tmp_path / "h.onnx", "--data", data, *COMMON) == 0, kdguard.err
    assert hardened_layers(load_onnx(tmp_path / "h.onnx"))


def test_options_that_the_choice_does_not_use_are_named(
    kdguard: CommandLine, teacher: Path, six_pairs: Path, tmp_path: Path
) -> None:
    arguments = [teacher, "-o", tmp_path / "h.onnx", "--data", six_pairs, "--placement", "paired", *COMMON]
    assert kdguard("harden", *arguments, "--rank", 3, "--centred", "--gain", 20) == 0, kdguard.err
    assert "not used: centred, rank" in kdguard.out
    assert {entry.attributes["gain"] for entry in hardened_layers(load_onnx(tmp_path / "h.onnx"))} == {20.0}
    assert kdguard("harden", *arguments) == 0
    assert "not used" not in kdguard.out


def half() -> onnx.ModelProto:
    return make_conv_net(dtype=TensorProto.FLOAT16)


def flat() -> onnx.ModelProto:
    """All weights zero: every map is dead."""
    model = make_conv_net()
    for tensor in model.graph.initializer:
        tensor.raw_data = bytes(len(tensor.raw_data))
    return model


Refusal = tuple[Callable[[], onnx.ModelProto], list[object], int, list[str]]
REFUSALS: dict[str, Refusal] = {
    "gain in words": (make_conv_net, ["--gain", "abc"], 2, ["--gain 'abc' is neither a number nor auto"]),
    "gain of nothing": (make_conv_net, ["--gain", "0"], 2, ["--gain"]),
    "overflow of a named layer": (half, ["--layers", "b", "--gain", 1e5], 2, ["'b'", "overflows float16", "lower"]),
    "overflow of a chosen layer": (
        half, ["--placement", "paired", "--gain", 1e5], 2, ["layer '", "overflows float16"],
    ),
    "not refittable": (make_conv_net, ["--placement", "compensated", "--layers", "b"], 2, ["'b' cannot be comp"]),
    "no budget in-path": (
        make_conv_net, ["--placement", "in-path", "--budget-db", 0, "--layers", "b"], 1,
        ["at gain", "over the budget", "nothing was written"],
    ),
    "no budget in-path, named gain": (
        make_conv_net, ["--placement", "in-path", "--gain", 30], 1, ["fidelity gate", "nothing was written"],
    ),
    "no map alive": (flat, ["--placement", "paired"], 2, ["no eligible layer"]),
    "no map alive in-path": (flat, ["--placement", "in-path"], 2, ["no eligible layer"]),
    "maps too narrow": (lambda: make_conv_net(4), ["--placement", "paired"], 2, ["no eligible layer", "fewer than 8"]),
    "3-D in-path": (attention, ["--placement", "in-path", "--layers", "tokens"], 2, ["'tokens'", "3-D"]),
    "3-D paired": (attention, ["--layers", "tokens"], 2, ["'tokens'", "3-D"]),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSALS)
def test_refusals_write_nothing(kdguard: CommandLine, six_pairs: Path, tmp_path: Path, name: str) -> None:
    build, arguments, code, reasons = REFUSALS[name]
    save_onnx(build(), tmp_path / "t.onnx")
    before = listing(tmp_path)
    common = [tmp_path / "t.onnx", "-o", tmp_path / "h.onnx", "--data", six_pairs, *COMMON]
    line = kdguard.refuses("harden", *common, *arguments, code=code)
    assert all(reason in line for reason in reasons), line
    assert listing(tmp_path) == before


def test_the_best_that_was_found_is_said(kdguard: CommandLine, six_pairs: Path, tmp_path: Path) -> None:
    save_onnx(make_conv_net(10), tmp_path / "t.onnx")
    before = listing(tmp_path)
    arguments = ["--data", six_pairs, "--placement", "compensated", "--tile-safe", *COMMON]
    line = kdguard.refuses("harden", tmp_path / "t.onnx", "-o", tmp_path / "h.onnx", *arguments, code=1)
    assert "shows no seams" in line
    assert "the best found was d at gain" in line
    assert "Nothing was written" in line
    assert listing(tmp_path) == before


def test_choosing_needs_data(kdguard: CommandLine, teacher: Path, tmp_path: Path) -> None:
    for arguments in ([], ["--layers", "auto"], ["--layers", "d", "--placement", "compensated"]):
        line = kdguard.refuses("harden", teacher, "-o", tmp_path / "h.onnx", "--task", "denoising", *arguments)
        assert "needs calibration images: give --data" in line


@pytest.mark.parametrize("index", [1, 3])
def test_nan_names_the_image(
    kdguard: CommandLine, six_pairs: Path, tmp_path: Path, write_images: Callable[..., None], index: int
) -> None:
    save_onnx(brightest_is_one(), tmp_path / "t.onnx")
    for kind in ("clean", "degraded"):
        write_images(six_pairs / kind, **{f"p{index}": np.zeros((48, 48, 3), np.uint8)})
    line = kdguard.refuses("harden", tmp_path / "t.onnx", "-o", tmp_path / "h.onnx", "--data", six_pairs, *COMMON)
    assert f"'p{index}.png'" in line
    assert "NaN" in line


@pytest.mark.parametrize("limit", ["nan", "0.5", "inf"])
def test_bad_slowdowns(kdguard: CommandLine, teacher: Path, six_pairs: Path, tmp_path: Path, limit: str) -> None:
    arguments = ["--data", six_pairs, "--max-slowdown", limit, *COMMON]
    assert kdguard("harden", teacher, "-o", tmp_path / "h.onnx", *arguments) == 2
    assert "--max-slowdown" in kdguard.err
    assert "Traceback" not in kdguard.err


def test_a_list_of_no_names_is_refused(kdguard: CommandLine, teacher: Path, tmp_path: Path) -> None:
    assert kdguard("harden", teacher, "-o", tmp_path / "h.onnx", "--layers", ",") == 2
    assert "no name in ','" in kdguard.err
