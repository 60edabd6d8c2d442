"""What is found out about models that do not say it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from onnx import helper

from kdguard.export.image_pairs import ImagePair
from kdguard.export.model_card import CardOverrides, ModelCard
from kdguard.runtime.probe import VALUE_RANGES, best_value_range, close_calls, score_value_ranges
from kdguard.runtime.resolve_card import resolve_card
from kdguard.runtime.session import RestorationSession
from tests.conftest import make_conv_net, make_model, photograph
from tests.foreign_models import in_value_range, with_input_shape


@pytest.mark.parametrize("fixed", [False, True])
@pytest.mark.parametrize("value_range", VALUE_RANGES)
def test_value_range_is_found_and_said(
    value_range: tuple[float, float], fixed: bool, pairs_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = in_value_range(*value_range)
    if fixed:
        with_input_shape(model, 1, 3, 40, 40)
    card = resolve_card(model, "denoising", "m.onnx", data=pairs_folder)
    assert card.value_range == value_range
    said = capsys.readouterr().out
    assert f"m.onnx: value range {value_range[0]:g} to {value_range[1]:g} taken" in said
    assert "--value-range" in said
    assert "close call" not in said


def test_what_the_user_says_is_not_measured(pairs_folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    card = resolve_card(
        in_value_range(0, 255), "denoising", overrides=CardOverrides(value_range=(0.0, 2.0)), data=pairs_folder
    )
    assert card.value_range == (0.0, 2.0)
    assert capsys.readouterr().out == ""


def test_without_pairs_it_is_zero_to_one() -> None:
    assert resolve_card(in_value_range(0, 255), "denoising").value_range == (0.0, 1.0)


@pytest.mark.parametrize("side", [64, 96])
def test_sizes_baked_into_the_graph_are_found(side: int) -> None:
    """The input claims to be free, and a Reshape further down knows better."""
    nodes = [
        helper.make_node("Reshape", ["image", "traced"], ["same"]),
        helper.make_node("Relu", ["same"], ["restored"]),
    ]
    model = make_model(nodes, {"traced": np.array([1, 3, side, side])})
    card = resolve_card(model, "denoising")
    assert card.fixed_size == (side, side)
    image = photograph(150).astype(np.float32) / 255
    np.testing.assert_allclose(RestorationSession(model, card).restore(image), image, atol=1e-6)


def test_not_finite_never_wins() -> None:
    assert best_value_range({(0.0, 1.0): 20.0, (-1.0, 1.0): float("-inf"), (0.0, 255.0): 31.0}) == (0.0, 255.0)
    assert best_value_range(dict.fromkeys(VALUE_RANGES, float("-inf"))) == (0.0, 1.0)
    assert best_value_range({(0.0, 1.0): 20.0, (0.0, 255.0): 20.005}) == (0.0, 1.0)


def test_close_calls() -> None:
    scores = {(0.0, 1.0): 30.0, (-1.0, 1.0): float("-inf"), (0.0, 255.0): 30.2}
    assert close_calls(scores, (0.0, 255.0)) == [(0.0, 1.0)]
    assert close_calls(scores | {(-1.0, 1.0): 30.1}, (0.0, 255.0)) == [(-1.0, 1.0), (0.0, 1.0)]
    assert close_calls(scores | {(0.0, 1.0): 29.0}, (0.0, 255.0)) == []
    assert close_calls(dict.fromkeys(VALUE_RANGES, float("-inf")), (0.0, 1.0)) == []


def test_a_close_call_is_said(pairs_folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A network without biases restores alike in [0, 1] and [0, 255]."""
    homogeneous = make_model([helper.make_node("Relu", ["image"], ["restored"])], {})
    assert resolve_card(homogeneous, "denoising", "m.onnx", data=pairs_folder).value_range == (0.0, 1.0)
    said = capsys.readouterr().out
    assert "m.onnx: that was a close call: 0 to 1 was taken, and 0 to 255 restores about as well; " in said
    assert "state the range that the model was trained with, as --value-range 0 1 or --value-range 0 255\n" in said


def test_a_close_call_names_what_was_taken_and_the_runner_up(
    pairs_folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    scores = {(0.0, 1.0): 30.0, (-1.0, 1.0): 30.3, (0.0, 255.0): 30.1}
    monkeypatch.setattr("kdguard.runtime.resolve_card.score_value_ranges", lambda *_: scores)
    for overrides, options in (
        (CardOverrides(), "--value-range -1 1 or --value-range 0 255"),
        (CardOverrides(in_pipeline=True), "teacher.value_range: [-1, 1] or teacher.value_range: [0, 255]"),
    ):
        resolve_card(make_conv_net(), "denoising", "m.onnx", overrides, pairs_folder)
        said = capsys.readouterr().out
        assert "-1 to 1 was taken, and 0 to 255 and 0 to 1 restore about as well" in said
        assert said.endswith(f"as {options}\n")


def test_scoring_leaves_the_card_alone(card: ModelCard) -> None:
    session = RestorationSession(make_conv_net(), card)
    clean = photograph(300).astype(np.float32) / 255
    scores = score_value_ranges(session, [ImagePair("p", clean, clean)])
    assert session.card == card
    assert set(scores) == set(VALUE_RANGES)
