"""FitNets on the stripped file, after training it back to what the shipped one puts out."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import onnx

from kdguard.export.errors import UserError
from kdguard.export.image_tensor import Tensor as ModelTensor
from kdguard.export.image_tensor import image_to_tensor
from kdguard.export.model_card import ModelCard
from kdguard.runtime.finetune import TrainableTeacher, finetune
from kdguard.runtime.recipes.base import TRIED_WEIGHTS, Loot, NothingToWorkWithError, Query
from kdguard.runtime.recipes.fitnets import FitNets
from kdguard.runtime.recipes.strip_refit import refitted
from kdguard.runtime.red_team.tile import Tile
from kdguard.runtime.session import RestorationSession

if TYPE_CHECKING:
    from torch import Tensor

Pair = tuple[ModelTensor, ModelTensor]

STEPS = 200
LEARNING_RATE = 3e-5
TILES = 2
"""Per step, put through one by one: a file may name its batch of one in a Reshape."""

SAME = 1e-4
"""Outputs that are no further apart, as a share of the value range, cannot be brought nearer: 8 bits hold less."""


class StripFinetune(FitNets):
    """As `strip+refit`, then every weight trained on L1 to the outputs of the shipped model, tile by tile.

    It is features that this buys: outputs are the shipped model's in any case. No ground truth is
    needed. The best state on validation tiles counts, that before training included, so its outputs
    are never further from the shipped ones there than those of `strip+refit`.
    """

    name = "strip+finetune"
    tier = "T1s"
    source = "deleting nodes, then fine-tuning on the shipped model's outputs"
    weights = TRIED_WEIGHTS

    def query(self, loot: Loot) -> Query:
        return Query(self.chosen_taps(loot), finetuned, "strip+finetune")


def finetuned(loot: Loot) -> onnx.ModelProto:
    """The stripped, refitted and fine-tuned model; without fine-tuning where it already answers like the shipped one.

    Raises:
        NothingToWorkWithError: an operator that has no torch form.
    """
    stripped = refitted(loot)
    shipped = RestorationSession(loot.model, loot.card)
    validation = [_asked(shipped, tile, loot.card) for tile in loot.validation]
    if _answers_alike(stripped, loot.card, validation):
        return stripped
    rng = np.random.default_rng(0)

    def loss(teacher: TrainableTeacher, _: int) -> Tensor:
        chosen = rng.choice(len(loot.tiles), size=min(TILES, len(loot.tiles)), replace=False)
        pairs = [_asked(shipped, loot.tiles[index], loot.card) for index in chosen]
        return sum((_distance(teacher, pair) for pair in pairs[1:]), _distance(teacher, pairs[0])) / len(pairs)

    def score(teacher: TrainableTeacher) -> float:
        return -float(np.mean([_distance(teacher, pair).item() for pair in validation]))

    try:
        return finetune(stripped, loot.card, loss, score, STEPS, LEARNING_RATE, "fine-tuning the stripped model")
    except UserError as error:
        raise NothingToWorkWithError(str(error)) from error


def _asked(session: RestorationSession, tile: Tile, card: ModelCard) -> Pair:
    """The tile as the model takes it, and the model's answer."""
    tensor = image_to_tensor(tile.degraded, card)
    return tensor, session.run(tensor)[0]


def _answers_alike(model: onnx.ModelProto, card: ModelCard, pairs: Sequence[Pair]) -> bool:
    session = RestorationSession(model, card)
    low, high = card.value_range
    apart = [np.abs(session.run(tensor)[0] - answer).mean() for tensor, answer in pairs]
    # A distance that is no number is no likeness either.
    return bool(np.mean(apart) <= SAME * (high - low))


def _distance(teacher: TrainableTeacher, pair: Pair) -> Tensor:
    import torch

    tensor, answer = pair
    return (teacher(tensor)[0] - torch.from_numpy(answer).to(teacher.device)).abs().mean()
