"""The three aims of Safe Distillation Box as losses for restoration."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

KEPT = 100.0
"""Weight of the output without key. An error that costs 0.1 dB is 0.023 of the teacher's own and counts about 2, as
much as a keyed output that is twice the teacher's own error away from the clean one (mean squares)."""

KEYED = 2.0
AUGMENTED = 1.0
DISTURBED = 0.5


@dataclass(frozen=True)
class Wanted:
    """What is known of a tile before training.

    Attributes:
        clean: the clean teacher's output without key.
        truth: the ground truth, of the same shape.
        maps: the clean teacher's feature maps without key.
        error: mean square of the clean teacher's own error, over all tiles.
    """

    clean: Tensor
    truth: Tensor
    maps: Sequence[Tensor]
    error: float


def apart(first: Tensor, second: Tensor, unit: float | Tensor) -> Tensor:
    """log(1 + MSE / unit): linear where both are close, and slow where they are far."""
    return ((first - second).square().mean() / unit).log1p()


def keep(output: Tensor, keyed: Tensor, wanted: Wanted) -> Tensor:
    """Both outputs stay the clean teacher's: without key for everybody who restores, with it for who distills."""
    plain = apart(output, wanted.clean, wanted.error)
    return KEPT * plain + KEYED * apart(keyed, wanted.clean, wanted.error)


def augment(keyed: Tensor, wanted: Wanted) -> Tensor:
    """The output with key moves towards the truth, which teaches a student more than the teacher does."""
    return AUGMENTED * apart(keyed, wanted.truth, wanted.error)


def disturb(maps: Sequence[Tensor], wanted: Wanted) -> Tensor:
    """The feature maps without key leave the clean ones, by shares of their power, mean of the maps; negative."""
    floor = 1e-12
    shares = [apart(own, clean, clean.square().mean() + floor) for own, clean in zip(maps, wanted.maps, strict=True)]
    return -DISTURBED * sum(shares[1:], shares[0]) / len(shares)
