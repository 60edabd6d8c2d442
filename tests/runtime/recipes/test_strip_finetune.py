"""Fine-tuning the stripped file: where it helps, where it cannot, and files that resist it."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx
import pytest
import torch
from onnx import helper

from kdguard.export.image_tensor import image_to_tensor
from kdguard.export.model_card import ModelCard
from kdguard.graph_passes.insert_svd_perturb import InsertSvdPerturb
from kdguard.graph_passes.op import SvdPerturbAttributes
from kdguard.runtime.recipes import strip_finetune
from kdguard.runtime.recipes.base import Loot, NothingToWorkWithError
from kdguard.runtime.recipes.strip_finetune import finetuned
from kdguard.runtime.recipes.strip_refit import refitted
from kdguard.runtime.session import RestorationSession
from tests.conftest import conv_weights, make_model
from tests.runtime.recipes.test_queries import IMAGE, loot


def in_path(model: onnx.ModelProto) -> onnx.ModelProto:
    """A gain in the path before an activation: no reader can be refitted."""
    attributes = SvdPerturbAttributes(rank=2, gain=1.5)
    return InsertSvdPerturb(["a"], attributes=attributes, placement="in-path")(model).model


def how_far_apart(holding: Loot) -> tuple[float, float]:
    """Mean distance of the outputs to the shipped ones, of the refitted and of the fine-tuned model."""

    def answer(model: onnx.ModelProto) -> np.ndarray:
        return RestorationSession(model, holding.card).run(image_to_tensor(IMAGE, holding.card))[0]

    wanted = answer(holding.model)
    refit, tuned = (float(np.abs(answer(edit(holding)) - wanted).mean()) for edit in (refitted, finetuned))
    return refit, tuned


def test_it_wins_back_what_the_refit_leaves(conv_net: onnx.ModelProto, card: ModelCard) -> None:
    refit, tuned = how_far_apart(loot(in_path(conv_net), card, tap="a"))
    assert tuned < 0.8 * refit


def test_a_batch_of_one_may_be_part_of_the_file(card: ModelCard) -> None:
    """A Reshape that names one image of 48 x 48; images are put through one by one."""
    nodes = [
        helper.make_node("Conv", ["image", "wa"], ["a"], "conv_a", pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["a"], ["b"], "relu"),
        helper.make_node("Reshape", ["b", "flat"], ["positions"], "flatten"),
        helper.make_node("Reshape", ["positions", "square"], ["c"], "unflatten"),
        helper.make_node("Conv", ["c", "wt"], ["restored"], "tail", pads=[1, 1, 1, 1]),
    ]
    weights = {
        "wa": conv_weights(0, 8, 3),
        "wt": conv_weights(1, 3, 8),
        "flat": np.array([1, 8, 48 * 48]),
        "square": np.array([1, 8, 48, 48]),
    }
    model = make_model(nodes, weights, shape=(1, 3, 48, 48))
    holding = loot(in_path(model), card, tap="a")
    refit, tuned = how_far_apart(Loot(**{**vars(holding), "tiles": list(holding.tiles) * 2}))
    assert tuned < 0.8 * refit


def test_paired_nodes_leave_nothing_to_train(
    conv_net: onnx.ModelProto, card: ModelCard, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise AssertionError("trained")

    monkeypatch.setattr(strip_finetune, "finetune", refuse)
    attributes = SvdPerturbAttributes(rank=2, gain=30.0)
    paired = InsertSvdPerturb(["d"], attributes=attributes, placement="paired")(conv_net).model
    assert finetuned(loot(paired, card)) == refitted(loot(paired, card))
    with pytest.raises(AssertionError, match="trained"):
        finetuned(loot(in_path(conv_net), card, tap="a"))


def test_the_best_state_by_the_shipped_answers_is_kept(
    conv_net: onnx.ModelProto, card: ModelCard, monkeypatch: pytest.MonkeyPatch
) -> None:
    scores: list[float] = []
    holding = loot(in_path(conv_net), card, tap="a")
    shipped = RestorationSession(holding.model, card)

    class Near:
        """Answers as the shipped model does, 0.1 too bright."""

        device = torch.device("cpu")

        def __call__(self, images: np.ndarray) -> list[torch.Tensor]:
            return [torch.from_numpy(shipped.run(images)[0]) + 0.1]

    def remember(model: onnx.ModelProto, _card: object, _loss: object, score: Callable, *_: object) -> onnx.ModelProto:
        scores.append(score(Near()))
        return model

    monkeypatch.setattr(strip_finetune, "finetune", remember)
    finetuned(holding)
    assert scores == [pytest.approx(-0.1, abs=1e-5)]


def test_a_file_that_torch_cannot_train_is_nothing_to_work_with(card: ModelCard) -> None:
    nodes = [
        helper.make_node("Conv", ["image", "wa"], ["a"], "conv_a", pads=[1, 1, 1, 1]),
        helper.make_node("Det", ["a"], ["d"]),
        helper.make_node("Mul", ["a", "d4"], ["restored"]),
    ]
    odd = make_model(nodes, {"wa": conv_weights(0, 3, 3), "d4": np.ones((1, 1, 1, 1), np.float32)})
    with pytest.raises(NothingToWorkWithError, match="Det"):
        finetuned(loot(in_path(odd), card, tap="a"))
