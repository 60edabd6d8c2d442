"""The wheel, built, installed elsewhere and used from an empty folder."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
import venv
import zipfile
from pathlib import Path

import pytest

from tests.conftest import ROOT

PACKAGES = ("export", "graph_passes", "runtime")


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built from a copy: setuptools would mix what an earlier build left behind into the wheel."""
    source, out = (tmp_path_factory.mktemp(name) for name in ("source", "wheel"))
    for package in PACKAGES:
        shutil.copytree(ROOT / package, source / package, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    command = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(out), str(source)]
    subprocess.run(command, check=True, capture_output=True)
    (path,) = out.glob("*.whl")
    return path


def test_contents_are_the_three_packages(wheel: Path) -> None:
    shipped = {name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name}
    present = {
        f"kdguard/{path.relative_to(ROOT)}"
        for package in PACKAGES
        for path in (ROOT / package).rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    assert shipped == present


def test_installs_and_runs_from_an_empty_folder(wheel: Path, tmp_path: Path, quickstart_teacher: Path) -> None:
    environment, empty = tmp_path / "venv", tmp_path / "empty"
    empty.mkdir()
    venv.create(environment, with_pip=True)
    python = environment / "bin" / "python"
    ask = "import sysconfig; print(sysconfig.get_path('purelib'))"
    site = Path(subprocess.check_output([python, "-c", ask], text=True).strip())
    # Lends the packages we depend on; .pth files in there, the editable install's too, are not read.
    (site / "dependencies.pth").write_text(sysconfig.get_path("purelib"))
    subprocess.run([python, "-m", "pip", "install", "--quiet", "--no-deps", wheel], check=True)

    def run(*command: object) -> str:
        clean = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
        return subprocess.run(
            [str(part) for part in command], cwd=empty, env=clean, check=True, capture_output=True, text=True
        ).stdout

    where = run(python, "-c", "import kdguard.runtime.cli as m; print(m.__file__)")
    assert Path(where.strip()).is_relative_to(site)
    kdguard = environment / "bin" / "kdguard"
    assert run(kdguard, "--version").startswith("kdguard ")
    run(kdguard, "harden", quickstart_teacher, "-o", "hardened.onnx", "--layers", "relu_2")
    assert sorted(p.name for p in empty.iterdir()) == ["hardened.manifest.json", "hardened.onnx"]
