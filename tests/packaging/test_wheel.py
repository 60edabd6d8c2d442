"""The wheel, built, installed elsewhere and used from an empty folder."""

from __future__ import annotations

import os
import subprocess
import sys
import sysconfig
import venv
import zipfile
from pathlib import Path

import pytest

from tests.conftest import ROOT


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(out), str(ROOT)]
    subprocess.run(command, check=True, capture_output=True)
    (path,) = out.glob("*.whl")
    return path


def test_contents(wheel: Path) -> None:
    names = set(zipfile.ZipFile(wheel).namelist())
    tops = {name.split("/")[0] for name in names}
    assert all(top == "kdguard" or top.endswith(".dist-info") for top in tops), tops
    for source in ("export", "graph_passes", "runtime"):
        for path in (ROOT / source).rglob("*"):
            if path.suffix in {".py", ".j2", ".typed"}:
                assert f"kdguard/{path.relative_to(ROOT)}" in names


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
