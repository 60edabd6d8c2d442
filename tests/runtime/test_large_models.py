"""Large models through the commands: weights never in memory twice, the hardened one beside its data file."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from kdguard.export import large_models
from kdguard.export.large_models import data_path, is_large
from kdguard.export.onnx_files import load_onnx, sha256_of_model
from kdguard.graph_passes.op import SvdPerturbAttributes
from kdguard.runtime import open_model, side_by_side
from kdguard.runtime.harden import HardenOptions, harden
from kdguard.runtime.session import RestorationSession
from tests.conftest import photograph
from tests.large_model import write_large_teacher
from tests.runtime.commands.command_line import CommandLine

GIGABYTE = 2**30
OPTIONS = HardenOptions(["b", "m"], attributes=SvdPerturbAttributes(rank=2, gain=10.0))


@pytest.fixture
def teacher(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(large_models, "INLINE_LIMIT", 100_000)
    return write_large_teacher(tmp_path, 160)


@pytest.mark.parametrize("opset", [12, 18])
def test_hardened_beside_its_data_file(opset: int, teacher: Path, pairs_folder: Path, tmp_path: Path) -> None:
    teacher = write_large_teacher(tmp_path, 160, opset=opset)
    manifest = harden(teacher, tmp_path / "h.onnx", OPTIONS, task="denoising", data=pairs_folder)
    assert data_path(tmp_path / "h.onnx").is_file()
    assert manifest.hardened_sha256 == sha256_of_model(tmp_path / "h.onnx")
    assert manifest.fidelity is not None
    assert manifest.fidelity.psnr_between_db > 100
    assert all((entry.relative_distortion or 0) > 1 for entry in manifest.layers)
    assert manifest.converted_from_opset == (12 if opset == 12 else None)
    hardened = load_onnx(tmp_path / "h.onnx")
    assert is_large(hardened)
    assert open_model(tmp_path / "h.onnx").restore(photograph(20) / 255).shape == (20, 20, 3)


def test_every_command(
    teacher: Path,
    pairs_folder: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    kdguard, hardened = CommandLine(capsys, monkeypatch), tmp_path / "h.onnx"
    common = ["--data", pairs_folder]
    assert kdguard("inspect", teacher, "--task", "denoising") == 0, kdguard.err
    said = ["--layers", "b", "--task", "denoising"]
    assert kdguard("harden", teacher, "-o", hardened, *said, *common) == 0, kdguard.err
    assert kdguard("verify", teacher, hardened, *common) == 0, kdguard.err
    few = ["--seeds", 1, "--steps", 1, "--tiles", 2, "--recipes", "fitnets"]
    assert kdguard("attack", hardened, "--teacher", teacher, *common, *few) == 0, kdguard.err


def test_the_teachers_data_is_never_overwritten(
    teacher: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    kdguard = CommandLine(capsys, monkeypatch)
    model = teacher.read_bytes().replace(b"weights.bin", b"h.onnx.data")
    (tmp_path / "weights.bin").rename(tmp_path / "h.onnx.data")
    teacher.write_bytes(model)
    before = (tmp_path / "h.onnx.data").read_bytes()
    assert "that is the input" in kdguard.refuses("harden", teacher, "-o", tmp_path / "h.onnx", "--layers", "b")
    assert (tmp_path / "h.onnx.data").read_bytes() == before


def test_large_sessions_take_turns(teacher: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from kdguard.runtime.resolve_card import guess_card

    model = load_onnx(teacher)
    card = guess_card(model, None)
    sessions = [RestorationSession(model, card) for _ in range(2)]
    held = []

    def ask(session: RestorationSession, size: int) -> int:
        restored = session.restore(photograph(size) / 255)
        held.append([other._session is not None for other in sessions])
        return int(restored.shape[0]) + sessions.index(session)

    assert list(side_by_side.side_by_side(sessions, [12, 20], ask)) == [[12, 13], [20, 21]]
    assert held == [[True, False], [True, False], [False, True], [False, True]]
    assert sessions[0].provider == "CPUExecutionProvider" or sessions[0].provider.startswith("CUDA")


@pytest.mark.slow
def test_over_two_gigabytes(tmp_path: Path, pairs_folder: Path) -> None:
    """Peak memory of the whole command stays within the model's size and 1.5 GB: one set of weights at a time."""
    side, matrices = 12288, 4
    teacher = write_large_teacher(tmp_path, side, matrices)
    size = (tmp_path / "weights.bin").stat().st_size
    assert size > 2**31
    script = (
        "import json, resource, sys\n"
        "from kdguard.runtime.cli import main\n"
        "try: main()\n"
        "finally: print(json.dumps(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss))"
    )
    command = ["harden", teacher, "-o", tmp_path / "h.onnx", "--layers", "b,m", "--task", "denoising"]
    done = subprocess.run(
        [sys.executable, "-c", script, *map(str, command), "--data", str(pairs_folder)],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    peak = json.loads(done.stdout.splitlines()[-1]) * 1024
    assert peak < size + 1.5 * GIGABYTE
    assert data_path(tmp_path / "h.onnx").stat().st_size >= size
    assert (tmp_path / "h.onnx").stat().st_size < 10 * 2**20
