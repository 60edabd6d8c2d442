"""Answers to flipped and rotated images are turned back, then averaged."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from onnx import helper

from kdguard.export.model_card import ModelCard
from kdguard.runtime.red_team.teacher_cache import OUTPUT, SPREAD, TeacherCache
from kdguard.runtime.red_team.tile import Tile
from kdguard.runtime.session import RestorationSession
from tests.conftest import make_model, photograph

IMAGE = photograph(48).astype(np.float32) / 255


def test_views_are_turned_back_averaged_and_compared(card: ModelCard, tmp_path: Path) -> None:
    """A model that adds a pattern to the image as it lies: turned back, the pattern shows how it was turned."""
    pattern = np.random.default_rng(0).random((48, 48, 3), dtype=np.float32)
    weights = {"pattern": pattern.transpose(2, 0, 1)[None]}
    model = make_model([helper.make_node("Add", ["image", "pattern"], ["restored"])], weights)
    tile = Tile("p", IMAGE[8:24, 16:32], IMAGE[8:24, 16:32], IMAGE, 8, 16)

    def open_session(_: object) -> tuple[RestorationSession, tuple[int, ...]]:
        return RestorationSession(model, card), (0, 1, 6)

    output, spread = TeacherCache(tmp_path).ask(("key",), [tile], [OUTPUT, SPREAD], open_session, "asking")
    # View 1 is a quarter turn; view 6 mirrors, then turns by half.
    patterns = [pattern, np.rot90(pattern, -1), np.rot90(pattern, -2)[:, ::-1]]
    wanted = (IMAGE + np.mean(patterns, axis=0))[8:24, 16:32].transpose(2, 0, 1)
    np.testing.assert_allclose(np.load(output)[0], wanted, atol=1e-5)
    apart = np.std(patterns, axis=0).mean(axis=-1)[None, 8:24, 16:32]
    np.testing.assert_allclose(np.load(spread)[0], apart, atol=1e-5)


def test_one_view_does_not_disagree_with_itself(card: ModelCard, tmp_path: Path) -> None:
    model = make_model([helper.make_node("Identity", ["image"], ["restored"])], {})
    tile = Tile("p", IMAGE, IMAGE, IMAGE)
    (spread,) = TeacherCache(tmp_path).ask(
        ("key",), [tile], [SPREAD], lambda _: (RestorationSession(model, card), (0,)), "asking"
    )
    assert np.load(spread).shape == (1, 1, 48, 48)
    assert not np.load(spread).any()
