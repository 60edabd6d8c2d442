"""What a prior defence is: a model that is stronger changed the stronger the defence is set."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import onnx

from kdguard.export.image_pairs import ImagePair
from kdguard.export.model_card import ModelCard

Strengthen = Callable[[float], onnx.ModelProto]
"""From a strength to the defended model."""


@dataclass(frozen=True)
class Subject:
    """What is defended.

    Attributes:
        layers: tensors that defences of feature maps change.
        pairs: calibration images.
    """

    model: onnx.ModelProto
    card: ModelCard
    layers: Sequence[str]
    pairs: Sequence[ImagePair]
    seed: int

    @property
    def white(self) -> float:
        """Distance from black to white in the model's own range."""
        low, high = self.card.value_range
        return high - low


class Defence(ABC):
    """A defence from the literature, to compare with. Stateless.

    Attributes:
        name: word on the command line.
        source: where it is from.
        unit: what its strength measures.
        strengths: weakest and strongest that are tried, both above 0.
        of_features: whether it changes feature maps, rather than outputs or weights.
    """

    name: ClassVar[str]
    source: ClassVar[str]
    unit: ClassVar[str]
    strengths: ClassVar[tuple[float, float]]
    of_features: ClassVar[bool] = False

    @abstractmethod
    def prepare(self, subject: Subject) -> Strengthen:
        """Do what does not depend on the strength, and return how to make models of any strength."""

    def ladder(self, rungs: int) -> list[float]:
        """Strengths from strong to weak, in equal ratios."""
        weakest, strongest = self.strengths
        return [float(strength) for strength in np.geomspace(strongest, weakest, rungs)]
