"""Every command on good input: exit code, JSON contract, files."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from kdguard.export.onnx_files import load_onnx
from kdguard.graph_passes.inventory import hardened_layers
from tests.conftest import QUICKSTART
from tests.runtime.commands.command_line import CommandLine


def read(path: Path) -> dict[str, object]:
    return json.loads(path.read_text())  # type: ignore[no-any-return]


def test_export(kdguard: CommandLine, tmp_path: Path, monkeypatch: object) -> None:
    monkeypatch.chdir(QUICKSTART)  # type: ignore[attr-defined]
    output, report = tmp_path / "t.onnx", tmp_path / "t.json"
    code = kdguard(
        "export", "teacher:derain_edsr", "--weights", "teacher.safetensors", "--task", "deraining",
        "-o", output, "--json", report,
    )  # fmt: skip
    assert code == 0, kdguard.err
    assert "differs from torch by" in kdguard.out
    assert read(report)["card"]["task"] == "deraining"  # type: ignore[index]
    load_onnx(output)


def test_export_without_a_task_asks_for_it_later(kdguard: CommandLine, tmp_path: Path, pairs_folder: Path) -> None:
    output = tmp_path / "t.onnx"
    code = kdguard(
        "export", "teacher:derain_edsr", "--path", QUICKSTART, "--weights", QUICKSTART / "teacher.safetensors",
        "-o", output, "--data", pairs_folder,
    )  # fmt: skip
    assert code == 0, kdguard.err
    assert "on 4 real images" in kdguard.out
    assert "say it with --task" in kdguard.refuses("verify", output, output, "--data", pairs_folder)
    assert kdguard("verify", output, output, "--data", pairs_folder, "--task", "deraining") == 0


def test_inspect_harden_verify(kdguard: CommandLine, conv_net_file: Path, pairs_folder: Path, tmp_path: Path) -> None:
    hardened, report = tmp_path / "h.onnx", tmp_path / "r.json"
    assert kdguard("inspect", conv_net_file, "--json", report) == 0
    assert [layer["name"] for layer in read(report)["layers"]] == ["a", "b", "c", "d", "tail"]  # type: ignore[attr-defined]

    code = kdguard(
        "harden",
        conv_net_file,
        "-o",
        hardened,
        "--layers",
        "b",
        "--op-type",
        "Add",
        "--data",
        pairs_folder,
        "--gain",
        "10",
    )
    assert code == 0, kdguard.err
    assert [entry.layer for entry in hardened_layers(load_onnx(hardened))] == ["b", "d"]
    assert "b (Relu): paired, rank 4, gain 10, moved by" in kdguard.out
    assert kdguard("inspect", hardened) == 0
    assert kdguard.out.count("paired, rank 4") == 2

    assert kdguard("verify", conv_net_file, hardened, "--data", pairs_folder, "--json", report) == 0
    assert read(report)["within_budget"] is True
    assert "passed" in kdguard.out


def test_verify_fails_with_one_and_still_writes_its_json(
    kdguard: CommandLine, conv_net_file: Path, pairs_folder: Path, tmp_path: Path
) -> None:
    hardened, report = tmp_path / "h.onnx", tmp_path / "r.json"
    assert (
        kdguard("harden", conv_net_file, "-o", hardened, "--layers", "b", "--placement", "in-path", "--gain", "10") == 0
    )
    assert "fidelity not measured" in kdguard.out
    line = kdguard.refuses("verify", conv_net_file, hardened, "--data", pairs_folder, "--json", report, code=1)
    assert "fidelity gate failed" in line
    assert read(report)["within_budget"] is False


def test_attack(kdguard: CommandLine, conv_net_file: Path, pairs_folder: Path, tmp_path: Path) -> None:
    hardened, report = tmp_path / "h.onnx", tmp_path / "r.json"
    assert kdguard("harden", conv_net_file, "-o", hardened, "--layers", "d") == 0
    code = kdguard(
        "attack", hardened, "--teacher", conv_net_file, "--data", pairs_folder, "--recipes", "output-l1,fitnets",
        "--seeds", 1, "--steps", 5, "--tiles", 4, "--json", report,
    )  # fmt: skip
    assert code == 0, kdguard.err
    board = read(report)
    assert {"rows", "summary", "best_response"} <= board.keys()
    assert board["summary"][0].keys() >= {"recipe", "tier", "clean", "hardened", "drop_db", "ssim_drop_pct"}  # type: ignore[index]
    assert board["best_response"].keys() >= {"clean", "hardened", "drop_db"}  # type: ignore[attr-defined]
    assert "best response" in kdguard.out


def test_list_recipes_needs_no_model(kdguard: CommandLine) -> None:
    assert kdguard("attack", "--list-recipes") == 0
    assert "fitnets" in kdguard.out
    assert "T1" in kdguard.out


def test_version_and_help(kdguard: CommandLine) -> None:
    assert kdguard("--version") == 0
    assert kdguard.out.startswith("kdguard 0.")
    assert kdguard("--help") == 0
    for command in ("export", "inspect", "harden", "verify", "attack", "run"):
        assert command in kdguard.out


def test_help_imports_nothing_heavy() -> None:
    """What keeps --help under half a second; the time itself is in benchmarks/."""
    script = (
        "import sys; sys.argv = ['kdguard', '--help']\n"
        "from kdguard.runtime.cli import main\n"
        "try: main()\n"
        "except SystemExit: pass\n"
        "print(sorted({'torch', 'onnx', 'numpy', 'onnxruntime', 'matplotlib', 'pydantic', 'scipy'} & set(sys.modules)))"
    )
    printed = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout
    assert printed.strip().endswith("[]")
