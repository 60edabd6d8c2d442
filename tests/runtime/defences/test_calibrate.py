"""Prior defences: every one of them as strong as the budget allows, and no stronger."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx
import pytest

from kdguard.export.errors import GateFailedError, UserError
from kdguard.export.image_pairs import ImagePair
from kdguard.export.model_card import ModelCard
from kdguard.graph_passes.inventory import hardened_layers
from kdguard.runtime.defences import DEFENCES, Defence, Subject, get_defence
from kdguard.runtime.defences.base import Strengthen
from kdguard.runtime.defences.between import between
from kdguard.runtime.defences.calibrate import calibrate, middle_layers
from kdguard.runtime.session import RestorationSession
from tests.conftest import make_conv_net
from tests.runtime.image_pairs import noisy_pairs


@pytest.fixture
def subject(conv_net: onnx.ModelProto, card: ModelCard) -> Subject:
    """A teacher that is right up to noise, so that every change costs it."""
    session = RestorationSession(conv_net, card)
    rng = np.random.default_rng(0)
    pairs = []
    for pair in noisy_pairs(3):
        restored = session.restore(pair.degraded)
        truth = restored + rng.normal(0, 0.02, restored.shape)
        pairs.append(ImagePair(pair.name, pair.degraded, truth.astype(np.float32)))
    return Subject(conv_net, card, ["b", "d"], pairs, 0)


TRAINED = {"nasty-teacher", "safe-distillation-box", "safe-distillation-box-0.5"}
"""Fine-tuned, with tests of their own below and in test_safe_distillation_box.py."""


@pytest.mark.parametrize("name", [name for name in DEFENCES if name not in TRAINED])
def test_the_strongest_setting_within_the_budget_is_taken(name: str, subject: Subject) -> None:
    found = calibrate(get_defence(name), subject, 0.1)
    report = found.report
    assert report.fidelity.within_budget
    weakest, strongest = get_defence(name).strengths
    assert weakest <= report.strength < strongest
    # Twice as strong fails a gate.
    from kdguard.runtime.fidelity import measure_fidelity

    louder = get_defence(name).prepare(subject)(2 * report.strength)
    sessions = [RestorationSession(model, subject.card) for model in (subject.model, louder)]
    assert not measure_fidelity(*sessions, list(subject.pairs), subject.card.task, 0.1)[0].within_budget
    assert report.layers == (["b", "d"] if get_defence(name).of_features else [])
    onnx.checker.check_model(found.model, full_check=True)


def test_literal_asvp_amplifies_four_values_in_the_path(subject: Subject) -> None:
    layers = hardened_layers(get_defence("literal-asvp").prepare(subject)(0.5))
    assert [(layer.layer, layer.placement) for layer in layers] == [("b", "in-path"), ("d", "in-path")]
    assert {(layer.op.rank, layer.op.gain) for layer in layers} == {(4, 1.5)}


class Fixed(Defence):
    """Strengths that hold or fail as told."""

    name, source, unit, strengths = "fixed", "here", "none", (1.0, 16.0)

    def __init__(self, holds: Callable[[float], bool]) -> None:
        self.holds = holds
        self.asked: list[float] = []

    def prepare(self, subject: Subject) -> Strengthen:
        def strengthen(strength: float) -> onnx.ModelProto:
            self.asked.append(strength)
            if self.holds(strength):
                return subject.model
            broken = onnx.ModelProto()
            broken.CopyFrom(subject.model)
            broken.graph.initializer[0].raw_data = bytes(len(broken.graph.initializer[0].raw_data))
            return broken

        return strengthen


def test_strengths_are_scanned_from_above(subject: Subject) -> None:
    """Loss is not monotone: 12 holds though 6 would not, and what lies below it is never asked."""
    defence = Fixed(lambda strength: 10 < strength < 13 or strength < 2)
    found = calibrate(defence, subject, 0.1)
    assert 12 < found.report.strength < 13
    assert not found.report.at_limit
    assert min(defence.asked) > 10


def test_a_defence_that_always_holds_is_taken_at_full_strength(subject: Subject) -> None:
    defence = Fixed(lambda _: True)
    report = calibrate(defence, subject, 0.1).report
    assert report.strength == 16.0
    assert report.at_limit
    assert len(defence.asked) == 1


def test_a_defence_that_never_holds_is_a_failed_gate(subject: Subject) -> None:
    with pytest.raises(GateFailedError, match="not even 1"):
        calibrate(Fixed(lambda _: False), subject, 0.1)


def test_nasty_teacher_moves_weights_and_keeps_the_budget(subject: Subject, monkeypatch: pytest.MonkeyPatch) -> None:
    from kdguard.runtime.defences import nasty_teacher

    monkeypatch.setattr(nasty_teacher, "STUDENT_STEPS", 20)
    monkeypatch.setattr(nasty_teacher, "STEPS", 20)
    monkeypatch.setattr(nasty_teacher, "TILE", 32)
    found = calibrate(get_defence("nasty-teacher"), subject, 0.1)
    assert found.report.fidelity.within_budget
    moved = [
        own.name
        for own, clean in zip(found.model.graph.initializer, subject.model.graph.initializer, strict=True)
        if own.raw_data != clean.raw_data
    ]
    assert set(moved) == {"wa", "wc", "wt"}
    assert found.model.graph.node == subject.model.graph.node


def model_distance(model: onnx.ModelProto, card: ModelCard, images: list[np.ndarray], to: float) -> float:
    """Mean squared distance of its outputs from the images times a factor."""
    session = RestorationSession(model, card)
    return float(np.mean([np.square(session.restore(image) - to * image).mean() for image in images]))


def test_nasty_teacher_turns_away_from_the_student(subject: Subject, monkeypatch: pytest.MonkeyPatch) -> None:
    """A student that darkens: of it the fine-tuned teacher is farther than the clean one."""
    from kdguard.runtime.defences import nasty_teacher

    monkeypatch.setattr(nasty_teacher, "_student", lambda *_: lambda images: 0.8 * images)
    monkeypatch.setattr(nasty_teacher, "STEPS", 20)
    monkeypatch.setattr(nasty_teacher, "RATE", 1e-3)
    monkeypatch.setattr(nasty_teacher, "TILE", 32)
    images = [pair.degraded for pair in subject.pairs]
    nasty = get_defence("nasty-teacher").prepare(subject)(1.0)
    before, after = (model_distance(model, subject.card, images, 0.8) for model in (subject.model, nasty))
    assert after > 1.05 * before


def test_the_student_to_turn_away_from_imitates_the_teacher(subject: Subject, monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    from kdguard.runtime.defences import nasty_teacher

    tensors = np.stack([pair.degraded.transpose(2, 0, 1) for pair in subject.pairs])
    answers = torch.from_numpy(0.5 * tensors)
    apart = []
    for steps in (0, 60):
        monkeypatch.setattr(nasty_teacher, "STUDENT_STEPS", steps)
        student = nasty_teacher._student(tensors, answers, subject)
        with torch.no_grad():
            apart.append((student(torch.from_numpy(tensors)) - answers).abs().mean().item())
    assert apart[1] < 0.3 * apart[0]


def test_weights_between_two_models() -> None:
    clean, other = make_conv_net(), make_conv_net()
    values = onnx.numpy_helper.to_array(other.graph.initializer[0]) + 2
    other.graph.initializer[0].CopyFrom(onnx.numpy_helper.from_array(values.astype(np.float32), "wa"))
    mixed = onnx.numpy_helper.to_array(between(clean, other, 0.25).graph.initializer[0])
    np.testing.assert_allclose(mixed, onnx.numpy_helper.to_array(clean.graph.initializer[0]) + 0.5, atol=1e-6)
    assert between(clean, other, 0.0).graph.initializer[1:] == clean.graph.initializer[1:]


def test_default_layers_lie_in_the_middle(conv_net: onnx.ModelProto) -> None:
    assert middle_layers(conv_net) == ["b", "c", "d"] or len(middle_layers(conv_net)) >= 2


def test_unknown_defence_suggests_the_nearest() -> None:
    with pytest.raises(UserError, match="did you mean 'output-noise'"):
        get_defence("output-nose")
    with pytest.raises(UserError, match="choose one of"):
        get_defence("qqq")


def test_the_card_is_the_models_own(card: ModelCard) -> None:
    wide = card.model_copy(update={"value_range": (0.0, 255.0)})
    assert Subject(make_conv_net(), wide, [], [], 0).white == 255.0
