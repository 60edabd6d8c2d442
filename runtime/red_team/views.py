"""The eight flips and rotations of an image, numbered 0 (none) to 7."""

from __future__ import annotations

from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

VIEWS = 8
Values = TypeVar("Values", bound=np.generic)


def turn(image: NDArray[Values], view: int) -> NDArray[Values]:
    """View `view` of an image [H, W, C]: `view % 4` quarter turns, mirrored first from 4 on."""
    mirrored = image[:, ::-1] if view >= VIEWS // 2 else image
    return np.ascontiguousarray(np.rot90(mirrored, view % 4))


def turn_back(image: NDArray[Values], view: int) -> NDArray[Values]:
    """The image [H, W, C] that `turn` made this view of."""
    straight = np.rot90(image, -(view % 4))
    return np.ascontiguousarray(straight[:, ::-1] if view >= VIEWS // 2 else straight)
