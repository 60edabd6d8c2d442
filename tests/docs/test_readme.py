"""The README's command blocks run as they stand, top to bottom, as a newcomer would type them."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any, get_args

import pytest
from pydantic import BaseModel
from typer.main import get_command

from kdguard.export.onnx_files import load_onnx, save_onnx
from kdguard.graph_passes.insert_key_gate import gate_model
from kdguard.runtime import read_gate_secret
from kdguard.runtime.box.gate_keys import make_gate_key
from kdguard.runtime.cli import app
from kdguard.runtime.pipeline import Pipeline
from tests.conftest import ROOT

README = (ROOT / "README.md").read_text()
BLOCKS = re.findall(r"```bash\n(.*?)```", README, re.DOTALL)


def commands(block: str) -> list[str]:
    """A block's commands, continuation lines joined."""
    joined = block.replace("\\\n", " ")
    return [line.strip() for line in joined.splitlines() if line.strip() and not line.startswith("#")]


def test_there_are_blocks() -> None:
    text = " ".join(BLOCKS)
    stages = ("export", "inspect", "harden", "verify", "bench", "attack")
    for command in ("make run", "make test", *(f"kdguard {name}" for name in stages)):
        assert command in text


def test_make_targets_exist() -> None:
    for command in (c for block in BLOCKS for c in commands(block) if c.startswith("make ")):
        subprocess.run([*command.split(), "--dry-run"], cwd=ROOT, check=True, capture_output=True)


def test_kdguard_commands_run_in_order(tmp_path: Path) -> None:
    """In a copy of the examples, with the virtual environment activated."""
    shutil.copytree(ROOT / "examples", tmp_path / "examples", ignore=shutil.ignore_patterns("__pycache__"))
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    ran = 0
    for block in BLOCKS:
        for command in commands(block):
            if command.startswith(("make ", "git ", "cd ", "source ", "pip ")):
                continue
            done = subprocess.run(
                command,
                shell=True,
                cwd=tmp_path,
                env={**os.environ, "PATH": path},
                capture_output=True,
                text=True,
                check=False,
            )
            assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
            ran += 1
    assert ran >= 6
    assert (tmp_path / "runs" / "first" / "report.html").is_file()


@pytest.mark.parametrize(
    "path",
    [
        "README.md",
        "docs/op.md",
        "docs/threat-model.md",
        "docs/pipeline.md",
        "docs/bench.md",
        "docs/hardening.md",
        "docs/foreign-models.md",
        "docs/authorised.md",
        "docs/box.md",
        "docs/key-gate.md",
        "examples/service/README.md",
        "CONTRIBUTING.md",
    ],
)
def test_local_links_and_named_files_exist(path: str) -> None:
    text = (ROOT / path).read_text()
    targets = re.findall(r"\]\((?!https?:|#)([^)#]+)", text)
    targets += re.findall(r"`((?:benchmarks|docs|examples|export|graph_passes|runtime|tests)/[\w./-]+)`", text)
    base = (ROOT / path).parent
    for target in targets:
        assert (base / target).exists() or (ROOT / target).exists(), target


@pytest.mark.parametrize(
    "path",
    [
        "README.md",
        "docs/hardening.md",
        "docs/foreign-models.md",
        "docs/pipeline.md",
        "docs/bench.md",
        "docs/authorised.md",
        "docs/box.md",
        "docs/key-gate.md",
    ],
)
def test_options_that_are_named_exist(path: str) -> None:
    known = {name for command in get_command(app).commands.values() for p in command.params for name in p.opts}  # type: ignore[attr-defined]
    own_code = re.sub(r"(?s)(python benchmarks|pip install)[^\n]*", "", (ROOT / path).read_text())
    named = set(re.findall(r"(?<![\w-])--[a-z][a-z-]+", own_code))
    assert named
    assert named <= known, named - known


def recorded(name: str) -> dict[str, Any]:
    return json.loads((ROOT / "benchmarks" / "results" / name).read_text())  # type: ignore[no-any-return]


def plus_minus(value: float, half_width: float) -> str:
    return f"{round(value, 2) + 0.0:.2f} ± {half_width:.2f} dB"


def test_the_readmes_table_is_the_recorded_run() -> None:
    rows = {row.split("`")[1]: row for row in README.splitlines() if row.startswith("|") and "`)" in row}
    for entry in recorded("quickstart_summary.json")["attack"]["summary"]:
        row = rows[entry["recipe"]]
        assert plus_minus(entry["clean"]["psnr"], entry["clean"]["ci95"]) in row
        if entry["tier"] != "control":
            assert plus_minus(entry["hardened"]["psnr"], entry["hardened"]["ci95"]) in row
            assert plus_minus(entry["drop_db"], entry["drop_ci95"]) in row


def test_the_threat_models_figures_are_the_recorded_ones() -> None:
    text = (ROOT / "docs" / "threat-model.md").read_text()
    attack = recorded("quickstart_summary.json")["attack"]
    for entry in attack["summary"]:
        if entry["tier"] != "control":
            assert plus_minus(entry["drop_db"], entry["drop_ci95"]) in text
    best = attack["best_response"]
    assert f"leaves a drop of {plus_minus(best['drop_db'], best['drop_ci95'])}" in " ".join(text.split())


def test_prose_about_longer_runs_is_what_was_recorded() -> None:
    summary = recorded("red_team/quickstart-hardened-all.json")["scoreboard"]["summary"]
    drops = {entry["recipe"]: plus_minus(entry["drop_db"], entry["drop_ci95"]) for entry in summary}
    readme, model = (" ".join((ROOT / name).read_text().split()) for name in ("README.md", "docs/threat-model.md"))
    assert f"(`fitnets` loses {drops['fitnets']})" in readme
    assert f"`fsp` loses {drops['fsp']} and `fitnets` {drops['fitnets']}" in model
    assert f"the longer runs below have {drops['fitnets']}" in model


def test_no_best_response_is_told_apart_from_none() -> None:
    """As the threat model says of its table."""
    for path in sorted((ROOT / "benchmarks" / "results" / "red_team").glob("*-hardened-*.json")):
        content = json.loads(path.read_text())
        best = content["scoreboard"]["best_response"]
        if path.stem.endswith("-authorised"):  # a key holder is no thief
            assert best is None, path.name
            continue
        assert not content["tuned"] or best["drop_db"] <= best["drop_ci95"], path.name


def test_bounds_in_the_ops_document_hold_in_the_results() -> None:
    text = " ".join((ROOT / "docs" / "op.md").read_text().split())
    errors = recorded("op_error.json")["results"]
    for gain, bound in ((10, "6e-7"), (100, "6e-6")):
        worst = max(row["restore"] for row in errors if (row["gain"], row["type"]) == (gain, "float32"))
        assert float(bound) / 2 < worst < float(bound)
        assert bound in text
    half = [row for row in errors if row["type"] == "float16"]
    assert {row["restore"] for row in half} == {0.0}
    assert "comes back bit for bit at any gain" in text
    for keyed, bound in ((True, 300), (False, 500)):
        unchanged = max(row["unchanged"] for row in half if (row["attributes"] == "pattern") == keyed)
        assert 1 / (2 * bound) < unchanged < 1 / bound
    assert "Fewer than 1 in 300 elements of the benchmark's maps stay" in text
    assert "1 in 500 at the other settings" in text
    left_out = max(row["left_out"] for row in errors)
    assert 1 / 600 < left_out < 1 / 300
    assert "fewer than 1 in 300 " in text
    fidelity = recorded("paired_fidelity.json")["results"]
    for gain, stated in ((10, 135), (100, 113)):
        assert int(min(row["psnr_between_db"] for row in fidelity if row["gain"] == gain)) == stated
        assert f"{stated} dB" in text


def test_pipeline_document_names_every_field() -> None:
    text = (ROOT / "docs" / "pipeline.md").read_text()

    def fields(model: type[BaseModel]) -> set[str]:
        names = set(model.model_fields)
        for field in model.model_fields.values():
            for kind in get_args(field.annotation) or (field.annotation,):
                if isinstance(kind, type) and issubclass(kind, BaseModel):
                    names |= fields(kind)
        return names

    for name in fields(Pipeline):
        assert re.search(rf"[`.]{name}[`.]", text), name


def test_python_example_runs(tmp_path: Path, quickstart_teacher: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    examples = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    monkeypatch.chdir(tmp_path)
    Path("runs").mkdir()
    shutil.copy(quickstart_teacher, "runs/teacher.onnx")
    make_gate_key(Path("runs/alice.gate"))
    # Further up, `kdguard gate` made one of the hardened model.
    gated = gate_model(load_onnx(Path("runs/teacher.onnx")), [read_gate_secret("runs/alice.gate")], {"add_*": 2})
    save_onnx(gated, Path("runs/gated.onnx"))
    namespace: dict[str, Any] = {}
    for example in examples:
        exec(example, namespace)
    assert Path("runs/from_python.onnx").is_file()
    assert {values.shape for values in namespace["hints"].values()} == {(2, 512, 512)}
