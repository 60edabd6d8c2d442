"""What the teacher is asked, and which part of its answer a tile gets."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from onnx import helper

from kdguard.export.model_card import ModelCard
from kdguard.runtime.red_team.teacher_cache import TeacherCache
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

    answers = TeacherCache(tmp_path).ask(("key",), tiles, ["centred"], open_session, "asking")
    centred = (image - image.mean((0, 1))).transpose(2, 0, 1)
    wanted = np.stack([centred[:, :16, 8:24], centred[:, 24:40, 8:24]])
    np.testing.assert_allclose(np.load(answers.output), wanted, atol=1e-5)
    np.testing.assert_allclose(np.load(answers.maps[0]), wanted, atol=1e-5)
    assert asked == [(1, 3, 48, 48)]
