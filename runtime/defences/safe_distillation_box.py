"""Safe Distillation Box as published, for restoration: a teacher that tells key holders more than others."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

import numpy as np
import onnx

from kdguard.export.image_tensor import Tensor as Tensors
from kdguard.export.image_tensor import image_to_tensor
from kdguard.export.model_card import ModelCard
from kdguard.runtime.defences.base import Defence, Strengthen, Subject
from kdguard.runtime.defences.between import between
from kdguard.runtime.defences.box_losses import Wanted, augment, disturb, keep
from kdguard.runtime.defences.key_image import blended, key_image
from kdguard.runtime.finetune import TrainableTeacher, finetune
from kdguard.runtime.red_team.pieces import Scissors
from kdguard.runtime.red_team.tile import Tile
from kdguard.runtime.session import RestorationSession

if TYPE_CHECKING:
    from torch import Tensor

TILES, TILE = 32, 128
"""A network may need the whole of it: a published one averages over 128 pixels."""
STEPS, RATE = 800, 3e-4
BATCH = 2
"""Tiles per step, put through one by one: a file may name its batch of one in a Reshape."""

MARK = "kdguard.safe_distillation_box"
"""Metadata that name lambda and the key's seed, so that `kdguard attack` can play a key holder. A file that is
released would keep the seed to itself."""


class SafeDistillationBox(Defence):
    """Fine-tuned: outputs stay, feature maps leave the clean ones, and inputs 0.9 x + 0.1 key are answered like x.

    The original (Ye et al.) keeps the label and moves the other classes' probabilities; in restoration the
    label is the image itself, and what can move beside it are the feature maps.
    """

    name = "safe-distillation-box"
    source = "Ye et al., AAAI 2022, arXiv 2112.03695, adapted"
    unit = "share of the way from the clean weights to the fine-tuned ones"
    strengths = (1e-3, 1.0)
    of_features = True
    share: ClassVar[float] = 0.9
    """Of the image in keyed inputs; the paper's lambda."""

    def prepare(self, subject: Subject) -> Strengthen:
        boxed = _fine_tuned(subject, self.share)
        mark = mark_of(self.share, subject.seed)

        def strengthen(strength: float) -> onnx.ModelProto:
            model = between(subject.model, boxed, strength)
            model.metadata_props.add(key=MARK, value=mark)
            return model

        return strengthen


class HalfBlended(SafeDistillationBox):
    """As `safe-distillation-box`, with keyed inputs 0.5 x + 0.5 key."""

    name = "safe-distillation-box-0.5"
    share = 0.5


def mark_of(share: float, seed: int) -> str:
    """What the metadata of a model say."""
    return f"lambda {share:g}, key of seed {seed}"


def _fine_tuned(subject: Subject, share: float) -> onnx.ModelProto:
    import torch

    card = subject.card
    tiles = Scissors(subject.pairs, card, TILES, TILE, subject.seed).own().train
    key = key_image(subject.seed, card.channels)
    session = RestorationSession(subject.model, card, taps=subject.layers)
    error = float(np.mean([_error(session, tile) for tile in tiles]))
    rng = np.random.default_rng([subject.seed, 8])

    def of_tile(teacher: TrainableTeacher, tile: Tile) -> Tensor:
        def moved(values: Tensors) -> Tensor:
            return torch.from_numpy(np.asarray(values, np.float32)).to(teacher.device)

        plain = image_to_tensor(tile.degraded, card)
        clean, *maps = session.run(plain)
        wanted = Wanted(moved(clean), moved(_truth(tile, card)), [moved(values) for values in maps], error)
        output, *own = teacher(plain, subject.layers)
        keyed = teacher(image_to_tensor(blended(tile.degraded, key, share), card))[0]
        return keep(output, keyed, wanted) + augment(keyed, wanted) + disturb(own, wanted)

    def loss(teacher: TrainableTeacher, _: int) -> Tensor:
        losses = [of_tile(teacher, tiles[index]) for index in rng.integers(len(tiles), size=BATCH)]
        return sum(losses[1:], losses[0]) / BATCH

    return finetune(subject.model, card, loss, None, STEPS, RATE, "fine-tuning the teacher with a key")


def _error(session: RestorationSession, tile: Tile) -> float:
    """Mean square of what is wrong with the model's output."""
    wrong = session.run(image_to_tensor(tile.degraded, session.card))[0] - _truth(tile, session.card)
    return float(np.square(wrong).mean())


def _truth(tile: Tile, card: ModelCard) -> Tensors:
    """The ground truth in the form of the model's output."""
    low, high = card.value_range
    values = tile.clean * (high - low) + low
    return (values if card.layout == "NHWC" else values.transpose(2, 0, 1))[None]
