"""What the teacher is asked, and which part of its answer a tile gets."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import numpy as np
import pytest
from onnx import helper

from kdguard.export.errors import UserError
from kdguard.export.model_card import ModelCard
from kdguard.runtime.recipes.base import NothingToWorkWithError
from kdguard.runtime.red_team.stored_array import is_whole
from kdguard.runtime.red_team.teacher_cache import OUTPUT, TeacherCache
from kdguard.runtime.red_team.tile import Tile
from kdguard.runtime.session import RestorationSession
from tests.conftest import make_model, photograph


def test_the_model_sees_the_whole_image_once(card: ModelCard, tmp_path: Path) -> None:
    """A model that subtracts the image's mean: of a tile asked about by itself it would subtract another."""
    nodes = [
        helper.make_node("ReduceMean", ["image", "axes"], ["mean"]),
        helper.make_node("Sub", ["image", "mean"], ["centred"]),
        helper.make_node("Identity", ["centred"], ["restored"]),
    ]
    model = make_model(nodes, {"axes": np.array([2, 3])})
    image = photograph(48).astype(np.float32) / 255
    tiles = [Tile(str(top), image[top : top + 16, 8:24], image[top : top + 16, 8:24], image, top, 8) for top in (0, 24)]
    asked = []

    class Counting(RestorationSession):
        def run(self, tensor: np.ndarray, further: object = None) -> list[np.ndarray]:
            asked.append(tensor.shape)
            return super().run(tensor)

    def open_session(taps: object) -> tuple[RestorationSession, tuple[int, ...]]:
        return Counting(model, card, taps=["centred"]), (0,)

    output, tapped = TeacherCache(tmp_path).ask(("key",), tiles, [OUTPUT, "centred"], open_session, "asking")
    centred = (image - image.mean((0, 1))).transpose(2, 0, 1)
    wanted = np.stack([centred[:, :16, 8:24], centred[:, 24:40, 8:24]])
    np.testing.assert_allclose(np.load(output), wanted, atol=1e-5)
    np.testing.assert_allclose(np.load(tapped), wanted, atol=1e-5)
    assert asked == [(1, 3, 48, 48)]


def ask(card: ModelCard, folder: Path) -> Path:
    model = make_model([helper.make_node("Identity", ["image"], ["restored"])], {})
    image = photograph(16).astype(np.float32) / 255
    tile = Tile("t", image, image, image)
    (output,) = TeacherCache(folder).ask(
        ("key",), [tile], [OUTPUT], lambda _: (RestorationSession(model, card), (0,)), ""
    )
    return output


@pytest.mark.skipif(not hasattr(os, "posix_fallocate"), reason="this system cannot take room beforehand")
def test_a_full_disk_is_one_line_and_leaves_nothing(
    card: ModelCard, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The room is asked for before anything is written to the mapping, which would kill the process."""

    def full(_: int, offset: int, length: int) -> None:
        assert (offset, length > 3 * 16 * 16 * 4) == (0, True)
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "posix_fallocate", full)
    with pytest.raises(UserError, match=r"no room in .*make room, or give a --cache on another disk"):
        ask(card, tmp_path)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(not hasattr(os, "posix_fallocate"), reason="this system cannot take room beforehand")
def test_a_file_system_that_cannot_take_room_beforehand_is_written_to(
    card: ModelCard, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def unknown(*_: int) -> None:
        raise OSError(errno.EOPNOTSUPP, os.strerror(errno.EOPNOTSUPP))

    monkeypatch.setattr(os, "posix_fallocate", unknown)
    assert is_whole(ask(card, tmp_path), 1)


def test_a_map_that_overflows_is_nothing_to_work_with(card: ModelCard, tmp_path: Path) -> None:
    """Students of it would diverge, and nobody would be told why."""
    nodes = [
        helper.make_node("Log", ["image"], ["logarithms"]),
        helper.make_node("Identity", ["image"], ["restored"]),
    ]
    image = np.zeros((16, 16, 3), np.float32)
    tile = Tile("dark", image, image, image)

    def open_session(taps: object) -> tuple[RestorationSession, tuple[int, ...]]:
        return RestorationSession(make_model(nodes, {}), card, taps=["logarithms"]), (0,)

    with pytest.raises(NothingToWorkWithError, match="tap 'logarithms' holds NaN or infinity on 'dark'"):
        TeacherCache(tmp_path).ask(("key",), [tile], [OUTPUT, "logarithms"], open_session, "")
    assert list(tmp_path.iterdir()) == []
