"""FitNets on the stripped file, after training it back to what the shipped one puts out."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import onnx

from kdguard.export.errors import UserError
from kdguard.export.image_tensor import image_to_tensor
from kdguard.runtime.finetune import TrainableTeacher, finetune
from kdguard.runtime.recipes.base import TRIED_WEIGHTS, Loot, NothingToWorkWithError, Query
from kdguard.runtime.recipes.fitnets import FitNets
from kdguard.runtime.recipes.strip_refit import refitted
from kdguard.runtime.session import RestorationSession

if TYPE_CHECKING:
    from torch import Tensor

STEPS = 200
LEARNING_RATE = 3e-5
BATCH = 2


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
    """The stripped, refitted and fine-tuned model.

    Raises:
        NothingToWorkWithError: an operator that has no torch form.
    """
    import torch

    session = RestorationSession(loot.model, loot.card)
    rng = np.random.default_rng(0)

    def asked(images: list[np.ndarray]) -> tuple[np.ndarray, Tensor]:
        tensors = np.concatenate([image_to_tensor(image, loot.card) for image in images])
        answers = [session.run(tensors[index : index + 1])[0] for index in range(len(tensors))]
        return tensors, torch.from_numpy(np.concatenate(answers))

    def distance(teacher: TrainableTeacher, tensors: np.ndarray, answers: Tensor) -> Tensor:
        return (teacher(tensors)[0] - answers.to(teacher.device)).abs().mean()

    def loss(teacher: TrainableTeacher, _: int) -> Tensor:
        chosen = rng.choice(len(loot.tiles), size=min(BATCH, len(loot.tiles)), replace=False)
        return distance(teacher, *asked([loot.tiles[index].degraded for index in chosen]))

    validation = [asked([tile.degraded]) for tile in loot.validation]

    def score(teacher: TrainableTeacher) -> float:
        return -float(np.mean([distance(teacher, *pair).item() for pair in validation]))

    stripped = refitted(loot)
    try:
        return finetune(stripped, loot.card, loss, score, STEPS, LEARNING_RATE, "fine-tuning the stripped model")
    except UserError as error:
        raise NothingToWorkWithError(str(error)) from error
