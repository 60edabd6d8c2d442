"""What to try: recipes, seeds, students, and how they are trained."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Annotated, Literal

from pydantic import Field

from kdguard.runtime.students import Family, Size
from kdguard.runtime.yaml_section import YamlSection

DEFAULT_RECIPES = ("scratch", "output-l1", "fitnets")
Backend = Literal["joblib", "ray"]
MAX_STEPS = 10_000_000
MAX_LEARNING_RATE = 1000.0
"""Far beyond what trains anything; what lies above would end in numbers that torch cannot hold."""


def all_if_asked(names: Sequence[str]) -> tuple[str, ...]:
    """`all` stands for every recipe there is."""
    from kdguard.runtime.recipes import RECIPES

    return tuple(RECIPES) if tuple(names) == ("all",) else tuple(names)


class TrainingOptions(YamlSection):
    """How every student of a run is built and trained."""

    family: Family = "residual-cnn"
    size: Size = "small"
    steps: int = Field(600, ge=1, le=MAX_STEPS, description="at most; validation may stop earlier")
    batch: int = Field(8, ge=1)
    patch: int = Field(48, ge=8, description="side of the random crops, in pixels of the degraded image")
    learning_rates: tuple[Annotated[float, Field(gt=0, le=MAX_LEARNING_RATE)], ...] = Field(
        (5e-3, 2e-3, 1.2e-2), min_length=1, description="tried in this order, chosen per recipe by validation"
    )
    early_stopping: bool = Field(True, description="keep the best student by validation instead of the last")

    @property
    def student(self) -> str:
        """For people."""
        return f"{self.family}, {self.size}"


@dataclass(frozen=True)
class AttackOptions:
    """What to try.

    Attributes:
        recipes: names from `recipes.RECIPES`, or `all` alone.
        seeds: students per recipe and source.
        tap: tensor the feature recipes read, in both models; the last hardened layer by default.
        tiles: pieces of his images that the attacker asks about, cut at random.
        tile: their side in pixels of the degraded image.
        seed: of the cutting.
        backend: what runs the trials: this machine's cores, or a Ray cluster.
    """

    recipes: Sequence[str] = DEFAULT_RECIPES
    seeds: int = 3
    tap: str | None = None
    tiles: int = 64
    tile: int = 96
    seed: int = 0
    backend: Backend = "joblib"
    training: TrainingOptions = field(default_factory=TrainingOptions)
