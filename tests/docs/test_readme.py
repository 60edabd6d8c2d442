"""The README's command blocks run as they stand, top to bottom, as a newcomer would type them."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import ROOT

README = (ROOT / "README.md").read_text()
BLOCKS = re.findall(r"```bash\n(.*?)```", README, re.DOTALL)


def commands(block: str) -> list[str]:
    """A block's commands, continuation lines joined."""
    joined = block.replace("\\\n", " ")
    return [line.strip() for line in joined.splitlines() if line.strip() and not line.startswith("#")]


def test_there_are_blocks() -> None:
    text = " ".join(BLOCKS)
    for command in ("make run", "make test", "kdguard export", "kdguard harden", "kdguard verify", "kdguard attack"):
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


@pytest.mark.parametrize("path", ["README.md", "docs/op.md", "docs/threat-model.md", "CONTRIBUTING.md"])
def test_local_links_and_named_files_exist(path: str) -> None:
    text = (ROOT / path).read_text()
    targets = re.findall(r"\]\((?!https?:|#)([^)#]+)", text)
    targets += re.findall(r"`((?:benchmarks|docs|examples|export|graph_passes|runtime|tests)/[\w./-]+)`", text)
    base = (ROOT / path).parent
    for target in targets:
        assert (base / target).exists() or (ROOT / target).exists(), target


def quickstart() -> dict[str, dict[str, float]]:
    summary = json.loads((ROOT / "benchmarks" / "results" / "quickstart_summary.json").read_text())
    return {entry["recipe"]: entry for entry in summary["attack"]["summary"]}


@pytest.mark.parametrize("path", ["README.md", "docs/threat-model.md"])
@pytest.mark.parametrize("recipe", ["output-l1", "fitnets"])
def test_stated_drops_are_the_recorded_ones(path: str, recipe: str) -> None:
    entry = quickstart()[recipe]
    stated = f"{round(entry['drop_db'], 2) + 0.0:.2f} ± {entry['drop_ci95']:.2f}"
    assert stated in (ROOT / path).read_text()


def test_python_example_runs(tmp_path: Path, quickstart_teacher: Path) -> None:
    (example,) = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    target = tmp_path / "hardened.onnx"
    exec(example, {"path": quickstart_teacher, "target": target})
    assert target.is_file()
