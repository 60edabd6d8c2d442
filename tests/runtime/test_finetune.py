"""Training a model that exists as a file only."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from kdguard.export.model_card import ModelCard
from kdguard.runtime.finetune import TrainableTeacher, finetune
from tests.conftest import photograph

if TYPE_CHECKING:
    from torch import Tensor

IMAGE = photograph(16).astype(np.float32).transpose(2, 0, 1)[None] / 255
STEPS = 10
"""As many as looks: every step is scored."""


def brightness(teacher: TrainableTeacher, _: int) -> Tensor:
    return teacher(IMAGE)[0].square().mean()


def weights(model: onnx.ModelProto) -> list[np.ndarray]:
    return [numpy_helper.to_array(tensor) for tensor in model.graph.initializer]


@pytest.mark.parametrize("best", range(4))
def test_the_best_state_is_kept_that_before_training_included(
    conv_net: onnx.ModelProto, card: ModelCard, best: int
) -> None:
    """Scored before training and after every step; the one that is told to be best comes back."""
    seen: list[list[np.ndarray]] = []

    def score(teacher: TrainableTeacher) -> float:
        seen.append([parameter.detach().numpy().copy() for parameter in teacher.module.parameters()])
        return float(len(seen) - 1 == best)

    found = finetune(conv_net, card, brightness, score, STEPS, 1e-2, "training")
    assert len(seen) == 1 + STEPS
    again = [p.detach().numpy() for p in TrainableTeacher(found, card).module.parameters()]
    for ours, wanted in zip(again, seen[best], strict=True):
        np.testing.assert_array_equal(ours, wanted)
    unmoved = all(np.array_equal(a, b) for a, b in zip(weights(found), weights(conv_net), strict=True))
    assert unmoved == (best == 0)


def test_without_a_score_the_last_state_is_taken(conv_net: onnx.ModelProto, card: ModelCard) -> None:
    found = finetune(conv_net, card, brightness, None, STEPS, 1e-3, "training")
    before, after = (brightness(TrainableTeacher(model, card), 0).item() for model in (conv_net, found))
    assert after < before
