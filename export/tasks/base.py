"""What a restoration task is: how its images degrade and how the field scores it."""

from __future__ import annotations

from abc import ABC, abstractmethod

import numpy as np
from numpy.typing import NDArray

Image = NDArray[np.float32]
"""An image of shape [H, W, C], float32, values in [0, 1]."""


class Task(ABC):
    """One restoration task; subclasses are stateless and registered in `tasks.TASKS`.

    Attributes:
        name: the word used on the command line and in the model card.
        luma_only: score on the Y channel of BT.601 instead of RGB.
    """

    name: str
    luma_only: bool = False

    @abstractmethod
    def degrade(self, clean: Image, rng: np.random.Generator, scale: int = 1) -> Image:
        """Make the degraded image of a clean one.

        Args:
            clean: [H, W, C] in [0, 1], H and W multiples of `scale`.
            rng: the only source of randomness; the same state gives the same image.
            scale: output size over input size of the model that will restore it.

        Returns:
            [H / scale, W / scale, C] in [0, 1].
        """

    def border(self, scale: int) -> int:
        """Pixels cropped from every side before scoring, at output scale `scale`."""
        return 0
