"""What a recipe is: how a thief gets at the teacher's knowledge, and the loss he trains a student with."""

from __future__ import annotations

import inspect
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal

import numpy as np
import onnx
from numpy.typing import NDArray

from kdguard.export.errors import UserError
from kdguard.export.model_card import ModelCard
from kdguard.runtime.engines.session import Engine
from kdguard.runtime.shipped import Shipped

if TYPE_CHECKING:
    from torch import Tensor, nn

    from kdguard.runtime.red_team.pieces import Pieces, Scissors
    from kdguard.runtime.red_team.tile import Tile
    from kdguard.runtime.students.base import Restoration, Student

Tier = Literal["control", "T0", "T1", "T1s", "T2", "T3"]
Source = Literal["none", "clean", "hardened"]
Maps = NDArray[np.float32]

TRIED_WEIGHTS = (1.0, 0.1)
"""Of the feature term, for recipes whose attacker knows kdguard: he suspects features and lets validation choose."""


ENGINE_HIDES = "an engine hands out its outputs, and no graph to read or to edit"


class NothingToWorkWithError(UserError):
    """A model gives one recipe nothing to work with; others may go on."""


@dataclass(frozen=True)
class Batch:
    """One training batch; teacher entries are None or empty where the recipe asked for none.

    Attributes:
        degraded: [N, C, H, W] in [0, 1].
        clean: [N, C, H * scale, W * scale], the ground truth.
        owned: [N] bool, false for tiles that the recipe made itself and has no ground truth for.
        teacher_output: like `clean`.
        teacher_maps: [N, F_i, H_i, W_i], the tapped tensors.
        teacher_spread: [N, 1, H * scale, W * scale], standard deviation of the teacher's output over the views.
    """

    degraded: Tensor
    clean: Tensor
    owned: Tensor
    teacher_output: Tensor | None = None
    teacher_maps: tuple[Tensor, ...] = ()
    teacher_spread: Tensor | None = None


@dataclass(frozen=True)
class Step:
    """All that a loss may look at.

    Attributes:
        student: for losses that run it on further inputs.
        restoration: its answer to `batch.degraded`.
        helper: what the recipe trains along with the student; None where it asked for nothing.
        weight: of the feature term.
    """

    student: Student
    restoration: Restoration
    batch: Batch
    helper: nn.Module | None = None
    weight: float = 1.0


@dataclass(frozen=True)
class Loot:
    """What a thief holds: one of the two models, and images.

    Attributes:
        shipped: the file.
        tap: the tensor that feature recipes read.
        earlier_tap: another one before it, for recipes that compare two layers.
        images: degraded images [H, W, C] that he may run it on, unlabeled.
        tiles: training tiles, cut from these.
        validation: validation tiles.
    """

    shipped: Shipped
    card: ModelCard
    tap: str | None
    earlier_tap: str | None
    images: Sequence[NDArray[np.float32]]
    tiles: Sequence[Tile]
    validation: Sequence[Tile]

    @property
    def model(self) -> onnx.ModelProto:
        """The graph; raises `NothingToWorkWithError` where the file is an engine, which hides it."""
        if isinstance(self.shipped, Engine):
            raise NothingToWorkWithError(ENGINE_HIDES)
        return self.shipped


@dataclass(frozen=True)
class Query:
    """What a recipe asks of the stolen model.

    Attributes:
        taps: tensors to read beside the output.
        edit: makes the model that maps are read from, None for the file as shipped; outputs always come from
            that one. Only called where the answers are not in the cache.
        edit_name: names `edit` in the cache's keys.
        rework: makes the map to train on, [M, F, H, W], of those that were read, one per tap; None to
            train on what was read.
        views: picks those of the eight flips and rotations whose answers are averaged; None asks plainly.
        spread: whether to keep how far the views' answers lie apart.
    """

    taps: tuple[str, ...] = ()
    edit: Callable[[Loot], onnx.ModelProto] | None = None
    edit_name: str = ""
    rework: Callable[[Sequence[Maps]], Maps] | None = None
    views: Callable[[Loot], tuple[int, ...]] | None = None
    spread: bool = False


class Recipe(ABC):
    """One way to train a student. Stateless; what it learns beside the student comes from `helper`.

    Attributes:
        name: word on the command line and in the scoreboard.
        tier: what the attacker must hold, see docs/threat-model.md.
        source: the paper, or where the recipe comes from.
        sources: which teachers it asks; `none` for recipes that never see one.
        taps: how many feature maps it reads.
        ground_truth: whether the attacker is assumed to own clean images; without them he validates
            on the teacher's answers.
        weights: of the feature term, to choose from by validation; most papers fix one.
    """

    name: ClassVar[str]
    tier: ClassVar[Tier]
    source: ClassVar[str]
    sources: ClassVar[tuple[Source, ...]] = ("clean", "hardened")
    taps: ClassVar[int] = 0
    ground_truth: ClassVar[bool] = False
    weights: ClassVar[tuple[float, ...]] = (1.0,)

    def pieces(self, scissors: Scissors) -> Pieces:
        """The tiles to train and validate on."""
        return scissors.own()

    def query(self, loot: Loot) -> Query:
        """What to ask; raises `NothingToWorkWithError` where this model has not what it takes."""
        return Query(taps=self.chosen_taps(loot))

    def chosen_taps(self, loot: Loot) -> tuple[str, ...]:
        """As many tensors as the recipe reads, the earlier one first."""
        tensors = (loot.tap,) if self.taps == 1 else (loot.earlier_tap, loot.tap)
        return tuple(tap for tap in tensors if tap is not None) if self.taps else ()

    def helper(self, student: Student, map_channels: Sequence[int]) -> nn.Module | None:
        """A module trained along with the student, or None.

        Args:
            map_channels: channels of the teacher's maps.
        """
        return None

    @abstractmethod
    def loss(self, step: Step) -> Tensor:
        """The scalar to minimise."""


ASKING = {"name", "tier", "source", "sources", "weights", "pieces", "query", "chosen_taps"}
"""What a recipe may say about itself and about what is asked of the teacher; all else decides how students train.
Losses must not read these."""


def training_class(recipe: Recipe) -> type:
    """The class whose training a recipe's students get: a base of its own where it only asks otherwise than that."""
    found: type = type(recipe)
    while found.__base__ is not None and not _trains_its_own_way(found):
        found = found.__base__
    return found


def _trains_its_own_way(recipe: type) -> bool:
    # The interpreter's own entries are strings and the like; what somebody wrote with two underscores can be called.
    written = {
        name for name, value in vars(recipe).items() if not name.startswith("__") or inspect.isfunction(value)
    } - {"_abc_impl", "__annotate_func__"}
    return bool(written - ASKING)
