"""The eight flips and rotations of an image, numbered 0 (none) to 7."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

VIEWS = 8
HARMLESS_DB = 0.1
"""A view whose answers are worse than the plain ones by more than this is left out: rain falls one way."""
Values = TypeVar("Values", bound=np.generic)


def turn(image: NDArray[Values], view: int) -> NDArray[Values]:
    """View `view` of an image [H, W, C]: `view % 4` quarter turns, mirrored first from 4 on."""
    mirrored = image[:, ::-1] if view >= VIEWS // 2 else image
    return np.ascontiguousarray(np.rot90(mirrored, view % 4))


def turn_back(image: NDArray[Values], view: int) -> NDArray[Values]:
    """The image [H, W, C] that `turn` made this view of."""
    straight = np.rot90(image, -(view % 4))
    return np.ascontiguousarray(straight[:, ::-1] if view >= VIEWS // 2 else straight)


def harmless(score: Callable[[int], float], views: Iterable[int]) -> tuple[int, ...]:
    """Those of the views whose score, in dB, is not far below that of view 0, which is among them."""
    scores = {view: score(view) for view in views}
    return tuple(view for view in scores if scores[view] >= scores[0] - HARMLESS_DB)
