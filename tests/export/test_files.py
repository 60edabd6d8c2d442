"""Files appear whole or not at all."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from kdguard.export.errors import UserError
from kdguard.export.files import atomic_path, check_writable, write_json, write_text


def test_success_leaves_one_file_with_ordinary_mode(tmp_path: Path) -> None:
    write_text(tmp_path / "a.txt", "new")
    assert [p.name for p in tmp_path.iterdir()] == ["a.txt"]
    (tmp_path / "ordinary").touch()
    assert stat.S_IMODE((tmp_path / "a.txt").stat().st_mode) == stat.S_IMODE((tmp_path / "ordinary").stat().st_mode)


def test_failure_keeps_the_old_file_and_leaves_nothing(tmp_path: Path) -> None:
    write_text(tmp_path / "a.txt", "old")
    with pytest.raises(RuntimeError), atomic_path(tmp_path / "a.txt") as temporary:
        temporary.write_text("half")
        raise RuntimeError
    assert (tmp_path / "a.txt").read_text() == "old"
    assert len(list(tmp_path.iterdir())) == 1


def test_unwritable_targets_say_why(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for target, reason in (
        (tmp_path, "is a folder"),
        (tmp_path / "absent" / "x.onnx", "does not exist"),
        (tmp_path / "file" / "x.onnx", "does not exist"),
        (Path("/proc/x.onnx"), "choose a folder"),
    ):
        with pytest.raises(UserError, match=reason):
            check_writable(target)


def test_json_refuses_nan(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="Out of range"):
        write_json(tmp_path / "a.json", {"psnr": float("nan")})
    assert not list(tmp_path.iterdir())


def test_a_write_that_numpy_could_not_finish_asks_about_the_disk(tmp_path: Path) -> None:
    why = "problem writing element 3 to file; is there room on the disk"
    with pytest.raises(UserError, match=why), atomic_path(tmp_path / "a.npy"):
        raise OSError("problem writing element 3 to file")
    assert list(tmp_path.iterdir()) == []


def test_pipes_and_devices_are_not_replaced(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "link").symlink_to(tmp_path / "pipe")
    for name in ("pipe", "link"):
        with pytest.raises(UserError, match="it is a device or a pipe, and would be replaced"):
            write_text(tmp_path / name, "text")
    assert (tmp_path / "pipe").is_fifo()


def test_names_as_long_as_names_can_be(tmp_path: Path) -> None:
    write_text(tmp_path / ("n" * 250), "text")
    assert (tmp_path / ("n" * 250)).read_text() == "text"
    with pytest.raises(UserError, match="cannot write nnn"):
        write_text(tmp_path / ("n" * 300), "text")
