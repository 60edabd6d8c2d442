"""What a recipe is: the loss an attacker trains a student with, and what it needs from the teacher."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal

if TYPE_CHECKING:
    from torch import Tensor, nn

Tier = Literal["control", "T0", "T1", "T1s", "T2", "T3"]


@dataclass(frozen=True)
class Batch:
    """One training batch; teacher entries are None where the recipe asked for none.

    Attributes:
        degraded: [N, C, H, W] in [0, 1].
        clean: [N, C, H * scale, W * scale], the ground truth.
        teacher_output: like `clean`.
        teacher_features: [N, F, H_f, W_f], the tapped tensor.
    """

    degraded: Tensor
    clean: Tensor
    teacher_output: Tensor | None
    teacher_features: Tensor | None


class Recipe(ABC):
    """One way to train a student. Stateless; what it learns beside the student comes from `adaptor`.

    Attributes:
        name: word on the command line and in the scoreboard.
        tier: what the attacker must hold, see docs/threat-model.md.
        source: the paper, or where the recipe comes from.
        queries: whether the teacher is asked for outputs.
        taps: whether an intermediate tensor is read.
        ground_truth: whether the attacker is assumed to own clean images.
    """

    name: ClassVar[str]
    tier: ClassVar[Tier]
    source: ClassVar[str]
    queries: ClassVar[bool] = True
    taps: ClassVar[bool] = False
    ground_truth: ClassVar[bool] = False

    def adaptor(self, student_channels: int, teacher_channels: int) -> nn.Module | None:
        """A module trained along with the student, or None."""
        return None

    @abstractmethod
    def loss(self, output: Tensor, features: Tensor, batch: Batch, adaptor: nn.Module | None) -> Tensor:
        """The scalar to minimise.

        Args:
            output: the student's restored batch.
            features: the student's feature map [N, F, H, W].
        """
