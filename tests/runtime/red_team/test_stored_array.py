"""Arrays that were cut, emptied, exchanged or never sealed are not taken."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from kdguard.runtime.red_team.stored_array import is_whole, store_array


@pytest.fixture
def stored(tmp_path: Path) -> Path:
    path = tmp_path / "a.npy"
    store_array(path, np.arange(24, dtype=np.float32).reshape(4, 6))
    return path


def emptied(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:128].ljust(path.stat().st_size, b"\0"))


def one_bit(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)


def other_array(path: Path) -> None:
    np.save(path, np.zeros((4, 2)))


def unsealed(path: Path) -> None:
    path.with_name("a.npy.crc32").unlink()


def test_a_stored_array_is_whole(stored: Path) -> None:
    assert is_whole(stored, 4)
    assert not is_whole(stored, 5)
    np.testing.assert_array_equal(np.load(stored)[3], np.arange(18, 24))
    assert sorted(path.name for path in stored.parent.iterdir()) == ["a.npy", "a.npy.crc32"]


@pytest.mark.parametrize("damage", [emptied, one_bit, other_array, unsealed])
def test_a_damaged_one_is_not(stored: Path, damage: Callable[[Path], None]) -> None:
    assert is_whole(stored, 4)
    damage(stored)
    assert not is_whole(stored, 4)


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 no archive", b"\x93NUMPY", b"text"])
def test_other_files_are_no_whole_arrays(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "a.npy").write_bytes(content)
    assert not is_whole(tmp_path / "a.npy", 1)
    np.save(tmp_path / "one.npy", np.float32(1))
    assert not is_whole(tmp_path / "one.npy", 1)
