"""What is timed: a teacher and its hardened model, asked for one image of a given size."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray

from kdguard.export.errors import UserError
from kdguard.export.image_tensor import Tensor, image_to_tensor, model_size, pad_image
from kdguard.export.model_card import ModelCard
from kdguard.export.tasks import Image
from kdguard.runtime.engines.shapes import Size, parse_size

DEFAULT_SIZE = Size(256, 256)


@dataclass(frozen=True)
class Subject:
    """A pair of models and what both are asked.

    Attributes:
        teacher: file of the clean model.
        hardened: file of the other one.
        models: what is in them, clean and hardened.
        size: of the degraded image.
    """

    teacher: Path
    hardened: Path
    models: tuple[onnx.ModelProto, onnx.ModelProto]
    card: ModelCard
    size: Size
    tensor: Tensor = field(init=False, repr=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "tensor", image_to_tensor(photograph(self.size, self.card.channels), self.card))


def choose_size(text: str | None, card: ModelCard, option: str) -> Size:
    """The size asked for, held against the card; where none is, 256x256 rounded up to what the model takes.

    Args:
        option: where it was said, for the message.

    Raises:
        UserError: no size, or one that the model does not take.
    """
    if text is None:
        return Size(*model_size(card, *DEFAULT_SIZE))
    size = parse_size(text, option)
    if card.fixed_size and size != card.fixed_size:
        raise UserError(f"{option}: the model takes images of {Size(*card.fixed_size)} only; leave it out")
    if any(side % card.size_multiple for side in size):
        nearest = Size(*model_size(card, *size))
        raise UserError(
            f"{option}: {size} is no multiple of {card.size_multiple}, which the model needs; give {nearest}, say"
        )
    return size


def photograph(size: Size, channels: int) -> Image:
    """A photograph of this size [H, W, channels], mirrored at its edges as often as it takes."""
    from skimage import data

    whole: NDArray[np.uint8] = getattr(data, "astronaut")()  # noqa: B009  # untyped
    image: Image = whole[: size.height, : size.width].astype(np.float32) / np.float32(255)
    if channels == 1:
        image = image.mean(axis=-1, keepdims=True)
    return pad_image(image, *size)
