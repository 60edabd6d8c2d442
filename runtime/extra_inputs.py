"""Inputs beside the image, filled with the constants that the model card keeps: noise levels, switches, maps."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kdguard.export.errors import UserError
from kdguard.export.model_card import KEY_INPUT, NO_KEY, ModelCard, describe_shape

Declared = Sequence[int | str | None]
"""A shape as onnxruntime tells it: sizes, symbols, or None."""


def known_sizes(declared: Declared, actual: Sequence[int]) -> dict[str, int]:
    """What the image's symbols stand for in this run."""
    return {name: size for name, size in zip(declared, actual, strict=True) if isinstance(name, str)}


def fill_input(
    name: str, declared: Declared, values: Sequence[float], image: Sequence[int], symbols: Mapping[str, int]
) -> NDArray[Any]:
    """A tensor of the declared shape from one value, one value per channel, or all values flattened.

    Free sizes are the image's: by symbol, else, for a 4-D map, by axis (with one channel). Other free
    axes have length 1, or hold the values where they are the only one.

    Args:
        image: shape of the image tensor in this run.
        symbols: from `known_sizes`.

    Raises:
        UserError: the values do not fit.
    """
    shape = [_size(side, axis, len(declared), image, symbols) for axis, side in enumerate(declared)]
    constants = np.asarray(values, dtype=np.float64)
    free = [axis for axis, side in enumerate(declared) if not isinstance(side, int)]
    if len(declared) == 1 and free:
        shape = [constants.size]
    if constants.size == 1:
        return np.full(shape, constants[0])
    if constants.size == np.prod(shape):
        return constants.reshape(shape)
    if len(shape) == 4:
        channels = next((axis for axis in (1, 3) if shape[axis] == constants.size), None)
        if channels is not None:
            return np.broadcast_to(constants.reshape([-1 if axis == channels else 1 for axis in range(4)]), shape)
    raise UserError(
        f"input {name!r} of shape {describe_shape(declared)} cannot be filled with {constants.size} values; "
        f"give one value, or {int(np.prod(shape))}"
    )


def fill_inputs(card: ModelCard, declared: Mapping[str, Declared], image: Sequence[int]) -> dict[str, NDArray[Any]]:
    """The card's further inputs by name, those that the model has; a key gate's is filled with what is no key.

    Args:
        declared: shapes of the model's inputs.
        image: shape of the image tensor in this run.

    Raises:
        UserError: the card's values do not fit.
    """
    own = declared[card.input_name]
    symbols = known_sizes(own, image) if len(own) == len(image) else {}
    return {
        name: fill_input(name, declared[name], values, image, symbols)
        for name, values in ({KEY_INPUT: [NO_KEY]} | card.extra_inputs).items()
        if name in declared
    }


def _size(side: int | str | None, axis: int, rank: int, image: Sequence[int], symbols: Mapping[str, int]) -> int:
    if isinstance(side, int):
        return side
    if side is not None and side in symbols:
        return symbols[side]
    if rank != 4:
        return 1
    # The channel axis of a map is declared in all models seen; where not, the smaller of the two candidates is it.
    channel = 1 if image[1] <= image[3] else 3
    return 1 if axis == channel else image[axis]
