"""Safe Distillation Box as published: what fine-tuning does to a small teacher, within the budget and beyond it."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx
import pytest

from kdguard.export.image_pairs import ImagePair
from kdguard.export.image_tensor import image_to_tensor
from kdguard.export.model_card import ModelCard
from kdguard.runtime.defences import Subject, box_losses, get_defence, safe_distillation_box
from kdguard.runtime.defences.calibrate import calibrate
from kdguard.runtime.defences.key_image import blended, key_image
from kdguard.runtime.defences.safe_distillation_box import MARK
from kdguard.runtime.session import RestorationSession
from tests.runtime.image_pairs import noisy_pairs

BOTH = pytest.mark.parametrize(("name", "share"), [("safe-distillation-box", 0.9), ("safe-distillation-box-0.5", 0.5)])


@pytest.fixture
def subject(conv_net: onnx.ModelProto, card: ModelCard, monkeypatch: pytest.MonkeyPatch) -> Subject:
    """A teacher that is right up to noise, to be fine-tuned for seconds."""
    monkeypatch.setattr(safe_distillation_box, "STEPS", 20)
    monkeypatch.setattr(safe_distillation_box, "RATE", 1e-2)
    monkeypatch.setattr(safe_distillation_box, "TILE", 32)
    session, rng = RestorationSession(conv_net, card), np.random.default_rng(0)

    def truth(pair: ImagePair) -> np.ndarray:
        restored = session.restore(pair.degraded)
        return (restored + rng.normal(0, 0.02, restored.shape)).astype(np.float32)

    pairs = [ImagePair(pair.name, pair.degraded, truth(pair)) for pair in noisy_pairs(3)]
    return Subject(conv_net, card, ["b", "d"], pairs, 5)


def error(model: onnx.ModelProto, subject: Subject, change: Callable[[np.ndarray], np.ndarray]) -> float:
    """Mean square of what is wrong with the answers to changed inputs."""
    session = RestorationSession(model, subject.card)
    return float(
        np.mean([np.square(session.restore(change(pair.degraded)) - pair.clean).mean() for pair in subject.pairs])
    )


def only(aim: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """One aim alone, which the others hold back."""
    for name in {"KEPT", "KEYED", "AUGMENTED", "DISTURBED"} - {aim}:
        monkeypatch.setattr(box_losses, name, 0.0)


@BOTH
@pytest.mark.parametrize("aim", ["KEYED", "AUGMENTED"])
def test_keyed_inputs_are_answered_better(
    name: str, share: float, aim: str, subject: Subject, monkeypatch: pytest.MonkeyPatch
) -> None:
    only(aim, monkeypatch)
    key = key_image(subject.seed, 3)
    boxed = get_defence(name).prepare(subject)(1.0)
    before, after = (error(m, subject, lambda image: blended(image, key, share)) for m in (subject.model, boxed))
    assert after < 0.95 * before


def test_maps_leave_the_clean_ones(subject: Subject, monkeypatch: pytest.MonkeyPatch) -> None:
    only("DISTURBED", monkeypatch)
    boxed = get_defence("safe-distillation-box").prepare(subject)(1.0)
    tensor = image_to_tensor(subject.pairs[0].degraded, subject.card)
    clean, own = (RestorationSession(m, subject.card, taps=subject.layers).run(tensor) for m in (subject.model, boxed))
    for first, second in zip(clean[1:], own[1:], strict=True):
        assert np.square(first - second).mean() > 0.05 * np.square(first).mean()


@BOTH
def test_calibrated_it_keeps_the_budget_and_names_lambda_and_the_keys_seed(
    name: str, share: float, subject: Subject
) -> None:
    found = calibrate(get_defence(name), subject, 0.1)
    assert found.report.fidelity.within_budget
    assert found.report.layers == ["b", "d"]
    assert [entry.value for entry in found.model.metadata_props if entry.key == MARK] == [
        f"lambda {share:g}, key of seed 5"
    ]
    assert found.model.graph.node == subject.model.graph.node
