"""What runs trials: workers that are killed, clusters that do not answer, parents that are gone."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from kdguard.export.errors import MissingDependencyError
from kdguard.runtime.red_team.backends import joblib_backend, ray_backend
from kdguard.runtime.red_team.trial import Trial
from tests.runtime.red_team.test_training import make_trial

ROOT = Path(__file__).parents[3]
PATIENCE_SECONDS = 120


def kill_worker(trial: Trial, threads: int) -> Any:
    os.kill(os.getpid(), signal.SIGKILL)


def test_a_killed_worker_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(MissingDependencyError, match=r"memory ran out.*same --cache") as caught:
        list(joblib_backend.run_trials([make_trial(tmp_path, steps=1)], kill_worker))
    assert caught.value.exit_code == 3


@pytest.mark.parametrize("address", ["127.0.0.1:{port}", "ray://127.0.0.1:{port}", "nonsense"])
def test_a_ray_cluster_that_does_not_answer_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, address: str
) -> None:
    import socket

    pytest.importorskip("ray", reason="the ray extra is not installed")
    with socket.socket() as taken:  # bound and not listening: nobody else gets it, and it refuses
        taken.bind(("127.0.0.1", 0))
        address = address.format(port=taken.getsockname()[1])
        monkeypatch.setenv("RAY_ADDRESS", address)
        with pytest.raises(MissingDependencyError, match=f"no Ray cluster at RAY_ADDRESS={address}"):
            list(ray_backend.run_trials([make_trial(tmp_path, steps=1)], kill_worker))


def children_of(process: int) -> set[int]:
    """Its living child processes."""
    listed = Path(f"/proc/{process}/task/{process}/children")
    return {int(child) for child in listed.read_text().split()} if listed.is_file() else set()


def busy(process: int) -> bool:
    """Whether it is there; one that waits for its parent to look at its end is not."""
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except (FileNotFoundError, ProcessLookupError):
        return False


def wait_until(true: Any, what: str) -> None:
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not true():
        assert time.monotonic() < deadline, what
        time.sleep(0.05)


def training(process: int) -> set[int]:
    """Workers that have used processor time for training, not for starting only."""

    def seconds(child: int) -> float:
        fields = Path(f"/proc/{child}/stat").read_text().rpartition(")")[2].split()
        return int(fields[11]) / os.sysconf("SC_CLK_TCK")

    return {child for child in children_of(process) if busy(child) and seconds(child) > 8}


def endless_attack(hardened: Path, teacher: Path, data: Path, cache: Path) -> Sequence[str]:
    return [
        sys.executable, "-m", "kdguard.runtime.cli", "attack", str(hardened), "--teacher", str(teacher),
        "--data", str(data), "--recipes", "scratch", "--steps", "1000000", "--tiles", "4", "--seeds", "1",
        "--no-early-stopping", "--cache", str(cache),
    ]  # fmt: skip


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/task").is_dir(), reason="looks for processes in /proc")
@pytest.mark.parametrize("pause", [0.02, 0.3])
def test_pressing_ctrl_c_twice_ends_the_attack_as_once_does(
    conv_net_file: Path, pairs_folder: Path, tmp_path: Path, pause: float
) -> None:
    """A terminal sends it to every process; the second one comes while workers are being ended, or shortly after."""
    command = endless_attack(conv_net_file, conv_net_file, pairs_folder, tmp_path / "cache")
    path = os.pathsep.join(filter(None, [os.environ.get("PYTHONPATH"), str(ROOT)]))
    with (tmp_path / "errors").open("w") as stream:
        process = subprocess.Popen(
            command, env={**os.environ, "PYTHONPATH": path}, stderr=stream, start_new_session=True
        )
    try:
        wait_until(lambda: process.poll() is not None or training(process.pid), "no worker began to train")
        workers = children_of(process.pid)
        os.killpg(process.pid, signal.SIGINT)
        time.sleep(pause)
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGINT)
        assert process.wait(PATIENCE_SECONDS) == 130
        wait_until(lambda: not any(map(busy, workers)), "workers went on")
        errors = (tmp_path / "errors").read_text()
        assert "kdguard: interrupted" in errors
        assert "Traceback" not in errors
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/task").is_dir(), reason="looks for processes in /proc")
@pytest.mark.parametrize("stop", [signal.SIGKILL, signal.SIGTERM])
def test_workers_end_with_the_attack_that_started_them(
    conv_net_file: Path, pairs_folder: Path, tmp_path: Path, stop: signal.Signals
) -> None:
    command = endless_attack(conv_net_file, conv_net_file, pairs_folder, tmp_path / "cache")
    path = os.pathsep.join(filter(None, [os.environ.get("PYTHONPATH"), str(ROOT)]))
    # A file, since a pipe would stay open as long as any worker lives.
    with (tmp_path / "errors").open("w") as stream:
        process = subprocess.Popen(command, env={**os.environ, "PYTHONPATH": path}, stderr=stream)
    workers: set[int] = set()
    try:
        wait_until(lambda: process.poll() is not None or training(process.pid), "no worker began to train")
        workers = children_of(process.pid)
        assert process.poll() is None
        process.send_signal(stop)
        process.wait(PATIENCE_SECONDS)
        wait_until(lambda: not any(map(busy, workers)), "workers went on")
        errors = (tmp_path / "errors").read_text()
        if stop == signal.SIGTERM:
            assert process.returncode == 143
            assert "kdguard: terminated" in errors
            assert "Traceback" not in errors
        assert not list((tmp_path / "cache").rglob("*.npz.*"))
    finally:
        for each in (process.pid, *filter(busy, workers)):
            if busy(each):
                os.kill(each, signal.SIGKILL)
        process.wait()
