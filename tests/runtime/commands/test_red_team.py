"""`kdguard attack` and `kdguard baseline` on the command line."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from kdguard.export.onnx_files import load_onnx
from kdguard.runtime.defences import DEFENCES, safe_distillation_box
from kdguard.runtime.recipes import RECIPES
from tests.runtime.commands.command_line import CommandLine


@pytest.fixture
def hardened(kdguard: CommandLine, conv_net_file: Path, tmp_path: Path) -> Path:
    output = tmp_path / "hardened.onnx"
    assert kdguard("harden", conv_net_file, "-o", output, "--layers", "d", "--gain", "30") == 0
    return output


def test_settings_reach_the_students(
    kdguard: CommandLine, conv_net_file: Path, hardened: Path, pairs_folder: Path, tmp_path: Path
) -> None:
    report, cache = tmp_path / "board.json", tmp_path / "sweep"
    command = [
        "attack", hardened, "--teacher", conv_net_file, "--data", pairs_folder, "--recipes", "scratch,output+gt",
        "--steps", 3, "--seeds", 2, "--tiles", 4, "--student", "unet", "--size", "small",
        "--learning-rates", "1e-3,2e-3", "--no-early-stopping", "--cache", cache, "--json", report,
    ]  # fmt: skip
    assert kdguard(*command) == 0, kdguard.err
    board = json.loads(report.read_text())
    assert board["student"] == "unet, small"
    assert {row["learning_rate"] for row in board["tried"]} > {1e-3, 2e-3}
    assert next(iter(board)) == "best_response"
    assert board["help_left"]["recipe"] == "output+gt"
    assert "at most" in kdguard.out
    assert "with ground truth, output+gt from the hardened teacher is" in kdguard.out
    # All that were tried at seed 0, and seed 1: scratch, and output+gt from both teachers.
    kept = {path: path.stat().st_mtime_ns for path in (cache / "trials").iterdir()}
    assert len(kept) == len(board["tried"]) + 3
    assert kdguard(*command) == 0
    assert {path: path.stat().st_mtime_ns for path in (cache / "trials").iterdir()} == kept
    assert json.loads(report.read_text()) == board


def test_all_recipes_are_listed(kdguard: CommandLine) -> None:
    assert kdguard("attack", "--list-recipes") == 0
    for recipe in RECIPES.values():
        assert recipe.name in kdguard.out
    assert kdguard("baseline", "--list") == 0
    for defence in DEFENCES.values():
        assert defence.name in kdguard.out


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["--recipes", "fitnet"], "did you mean 'fitnets'"),
        (["--tap", "zzz", "--recipes", "fitnets"], "tap 'zzz' is not a tensor of the teacher's graph"),
        (["--recipes", "all,scratch"], "give `all` alone"),
        (["--learning-rates", "fast"], "give numbers above 0 and up to 1000, each once"),
        (["--learning-rates", "1e-3,-1"], "give numbers above 0"),
        (["--learning-rates", "nan"], "give numbers above 0"),
        (["--learning-rates", "1e38"], "give numbers above 0"),
        (["--learning-rates", "1e-3,1e-3"], "each once"),
        (["--steps", "99999999999999999999"], "--steps"),
        (["--student", "vit"], "--student"),
        (["--backend", "slurm"], "--backend"),
    ],
)
def test_bad_requests_are_one_line(
    kdguard: CommandLine, conv_net_file: Path, hardened: Path, pairs_folder: Path, arguments: list[str], line: str
) -> None:
    refused = kdguard.refuses("attack", hardened, "--teacher", conv_net_file, "--data", pairs_folder, *arguments)
    assert line in refused


def test_ray_that_is_not_installed_is_named(
    kdguard: CommandLine,
    conv_net_file: Path,
    hardened: Path,
    pairs_folder: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    import sys

    monkeypatch.setitem(sys.modules, "ray", None)
    refused = kdguard.refuses(
        "attack", hardened, "--teacher", conv_net_file, "--data", pairs_folder, "--backend", "ray", "--steps", 1, code=3
    )
    assert "kdguard[ray]" in refused


def test_a_baseline_keeps_the_budget_and_can_be_attacked(
    kdguard: CommandLine, conv_net_file: Path, pairs_folder: Path, tmp_path: Path
) -> None:
    output, report = tmp_path / "noisy.onnx", tmp_path / "r.json"
    code = kdguard(
        "baseline", "uniform-scaling", conv_net_file, "-o", output, "--data", pairs_folder, "--layers", "d",
        "--json", report,
    )  # fmt: skip
    assert code == 0, kdguard.err
    written = json.loads(report.read_text())
    assert written["fidelity"]["within_budget"]
    assert written["layers"] == ["d"]
    assert f"strength {written['strength']:.3g} (gain beyond 1), the strongest that keeps both gates" in kdguard.out
    fidelity = written["fidelity"]
    assert f"on 4 images, defended against clean {fidelity['psnr_between_db']:.1f} dB, at least" in kdguard.out
    assert "changes d; attack it with --tap d" in kdguard.out
    assert "or more tell more" not in kdguard.out
    load_onnx(output)
    attack = ["attack", output, "--teacher", conv_net_file, "--data", pairs_folder, "--steps", 2, "--seeds", 1]
    # What needs no tap goes on; nothing else to run is a refusal.
    assert kdguard(*attack) == 0, kdguard.err
    assert "fitnets is left out: the hardened model has no hardened layer to tap; name one with --tap" in " ".join(
        kdguard.out.split()
    )
    assert "name one with --tap" in kdguard.refuses(*attack, "--recipes", "fitnets")
    assert kdguard(*attack, "--tap", "d", "--recipes", "fitnets") == 0, kdguard.err


def test_a_published_box_is_made_and_its_key_holder_played(
    kdguard: CommandLine, conv_net_file: Path, pairs_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(safe_distillation_box, "STEPS", 5)
    boxed, board = tmp_path / "boxed.onnx", tmp_path / "b.json"
    given = ["baseline", "safe-distillation-box", conv_net_file, "-o", boxed, "--data", pairs_folder, "--layers", "d"]
    assert kdguard(*given) == 0, kdguard.err
    attack = ["attack", boxed, "--teacher", conv_net_file, "--data", pairs_folder, "--steps", 2, "--seeds", 1]
    recipes = "output-l1,keyed-answers,keyed-answers-0.5"
    assert kdguard(*attack, "--recipes", recipes, "--json", board) == 0, kdguard.err
    assert "hardened teacher, asked with a key" in kdguard.out
    written = json.loads(board.read_text())
    assert [(row["recipe"], row["source"]) for row in written["rows"]] == [
        ("output-l1", "clean"),
        ("output-l1", "hardened"),
        ("keyed-answers", "hardened"),
    ]
    assert written["best_response"]["hardened"]["recipe"] == "output-l1"
    assert [missing["recipe"] for missing in written["not_run"]] == ["keyed-answers-0.5"]


def test_baseline_refusals(kdguard: CommandLine, conv_net_file: Path, pairs_folder: Path, tmp_path: Path) -> None:
    output = tmp_path / "o.onnx"
    given = [conv_net_file, "-o", output, "--data", pairs_folder]
    assert "did you mean 'output-noise'" in kdguard.refuses("baseline", "output-nose", *given)
    assert "matches none" in kdguard.refuses("baseline", "feature-noise", *given, "--layers", "zzz")
    assert "that is the input" in kdguard.refuses(
        "baseline", "output-noise", conv_net_file, "-o", conv_net_file, "--data", pairs_folder
    )
    assert not output.exists()


def test_a_baseline_says_what_weakens_its_figures(
    kdguard: CommandLine,
    hardened: Path,
    write_noisy_pairs: Callable[[Path, int], Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(type(DEFENCES["output-noise"]), "strengths", (1e-6, 1e-5))
    few = write_noisy_pairs(tmp_path / "few", 2)
    assert kdguard("baseline", "output-noise", hardened, "-o", tmp_path / "o.onnx", "--data", few) == 0, kdguard.err
    assert f"{hardened} holds kdguard nodes already" in kdguard.out
    assert "strength 1e-05 (standard deviation, share of the value range), the strongest that is tried" in kdguard.out
    assert "strength and gates rest on 2 images; 4 or more tell more" in kdguard.out
    assert "changes no single feature map" in kdguard.out


def test_a_baseline_that_cannot_keep_the_gates_writes_nothing(
    kdguard: CommandLine, conv_net_file: Path, pairs_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(type(DEFENCES["output-noise"]), "strengths", (0.5, 1.0))
    output = tmp_path / "o.onnx"
    refused = kdguard.refuses("baseline", "output-noise", conv_net_file, "-o", output, "--data", pairs_folder, code=1)
    assert "not even 0.5" in refused
    assert not output.exists()


def test_one_image_can_train_where_others_are_scored(
    kdguard: CommandLine, conv_net_file: Path, hardened: Path, pairs_folder: Path, write_images: object, tmp_path: Path
) -> None:
    """Its parts train and validate; it cannot be scored on as well."""
    from tests.conftest import photograph

    write_images(tmp_path / "one" / "clean", only=photograph(80, 30))  # type: ignore[operator]
    write_images(tmp_path / "one" / "degraded", only=photograph(80, 30))  # type: ignore[operator]
    command = ["attack", hardened, "--teacher", conv_net_file, "--data", tmp_path / "one", "--recipes", "output-l1"]
    assert "one image cannot be both" in kdguard.refuses(*command)
    few = ["--steps", 2, "--seeds", 1, "--tiles", 2]
    assert kdguard(*command, "--test-data", pairs_folder, *few) == 0, kdguard.err


def test_models_of_unequal_scale_do_not_belong_together(
    kdguard: CommandLine, conv_net_file: Path, pairs_folder: Path, tmp_path: Path
) -> None:
    from onnx import helper

    from kdguard.export.model_card import ModelCard, write_card
    from kdguard.export.onnx_files import save_onnx
    from tests.conftest import conv_weights, make_model

    nodes = [
        helper.make_node("Conv", ["image", "w"], ["deep"], pads=[1, 1, 1, 1]),
        helper.make_node("DepthToSpace", ["deep"], ["restored"], blocksize=2),
    ]
    double = make_model(nodes, {"w": conv_weights(0, 12, 3)}, output_shape=("n", 3, "h2", "w2"))
    write_card(double, ModelCard(task="deraining", input_name="image", output_name="restored", scale=2))
    save_onnx(double, tmp_path / "double.onnx")
    refused = kdguard.refuses("attack", tmp_path / "double.onnx", "--teacher", conv_net_file, "--data", pairs_folder)
    assert "scale" in refused
