"""The bound on output-only students, by hand and on students for which it is exact."""

from __future__ import annotations

import numpy as np
import onnx
import pytest

from kdguard.export.image_pairs import ImagePair
from kdguard.export.model_card import ModelCard
from kdguard.graph_passes.change_tensors import ChangeTensors
from kdguard.graph_passes.round_output import RoundOutput
from kdguard.runtime.red_team.bound import drop_bound_db, pooled_db, rms_from_db
from kdguard.runtime.red_team.landmarks import measure_landmarks
from kdguard.runtime.session import RestorationSession
from tests.runtime.image_pairs import noisy_pairs


def test_decibels_and_back() -> None:
    assert rms_from_db(20.0) == pytest.approx(0.1)
    # Errors of 0.1 and 0.01: a factor of at most 1.1.
    assert drop_bound_db(20.0, 40.0) == pytest.approx(20 * np.log10(1.1))
    assert drop_bound_db(30.0, 200.0) < 1e-6


class Brighter(ChangeTensors):
    """Adds a constant."""

    def nodes(self, clean: str, changed: str) -> list[onnx.NodeProto]:
        value = onnx.helper.make_node("Constant", [], [f"{changed}/by"], value_float=0.1)
        return [value, onnx.helper.make_node("Add", [clean, f"{changed}/by"], [changed])]


def test_distance_of_two_teachers(conv_net: onnx.ModelProto, card: ModelCard) -> None:
    dark = [ImagePair(p.name, p.degraded * 0.3 + 0.2, p.clean) for p in noisy_pairs(2)]
    brighter = Brighter(["restored"])(conv_net).model
    assert measure_landmarks((conv_net, brighter), card, dark).outputs_apart_db == pytest.approx(20.0, abs=0.3)
    assert measure_landmarks((conv_net, conv_net), card, dark).outputs_apart_db == 200.0


class TwiceAsBright(ChangeTensors):
    """Goes far beyond white, which no screen shows."""

    def nodes(self, clean: str, changed: str) -> list[onnx.NodeProto]:
        return [onnx.helper.make_node("Add", [clean, clean], [changed])]


def test_what_lies_beyond_white_does_not_count(conv_net: onnx.ModelProto, card: ModelCard) -> None:
    white = [ImagePair(p.name, p.degraded * 1.5, p.clean) for p in noisy_pairs(1)]
    brighter = TwiceAsBright(["restored"])(conv_net).model
    found = measure_landmarks((conv_net, brighter), card, white)
    session = RestorationSession(conv_net, card)
    once, twice = (np.clip(session.restore(white[0].degraded) * factor, 0, 1) for factor in (1, 2))
    error = np.mean((once - twice).astype(float) ** 2)
    assert session.restore(white[0].degraded).max() > 1
    assert found.outputs_apart_db == pytest.approx(-10 * np.log10(error), abs=0.01)


def test_pooled_scores() -> None:
    # Errors of 0.1 and 0.01: the mean of their squares is 0.00505.
    assert pooled_db([20.0, 40.0]) == pytest.approx(-10 * np.log10(0.00505))


def test_least_squares_students_move_less_than_their_teachers(conv_net: onnx.ModelProto, card: ModelCard) -> None:
    """Linear students are a convex set and least squares trains them to the end: no slack is allowed."""
    pairs = noisy_pairs(2)
    answers = []
    for model in (conv_net, RoundOutput("restored", 0.2)(conv_net).model):
        session = RestorationSession(model, card)
        answers.append(np.concatenate([session.restore(p.degraded).reshape(-1, 3) for p in pairs]).astype(float))
    inputs = np.concatenate([np.hstack([p.degraded.reshape(-1, 3), np.ones((48 * 48, 1))]) for p in pairs]).astype(
        float
    )
    students = [inputs @ np.linalg.lstsq(inputs, wanted, rcond=None)[0] for wanted in answers]
    moved, apart = (float(np.sqrt(np.mean((b - a) ** 2))) for a, b in (students, answers))
    assert 0 < moved <= apart
