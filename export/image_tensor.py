"""Images to model tensors and back, as the model card says: layout, value range, size multiple."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from kdguard.export.errors import UserError
from kdguard.export.model_card import ModelCard
from kdguard.export.tasks import Image

Tensor = NDArray[np.floating]


def pad_image(image: Image, height: int, width: int) -> Image:
    """[H, W, C] grown at the bottom and right to the given size, by reflection as often as it takes."""
    padding = [(0, wanted - side) for wanted, side in zip((height, width), image.shape[:2], strict=True)]
    if not any(after for _, after in padding):
        return image
    return np.pad(image, [*padding, (0, 0)], mode="reflect")


def model_size(card: ModelCard, height: int, width: int) -> tuple[int, int]:
    """Height and width that the model is given for an image of this size."""
    if card.fixed_size:
        return card.fixed_size
    return height + -height % card.size_multiple, width + -width % card.size_multiple


def image_to_tensor(image: Image, card: ModelCard) -> Tensor:
    """[H, W, C] in [0, 1] to [1, C, H', W'] or [1, H', W', C] float32 in the model's range.

    H' and W' are H and W padded at the bottom and right by reflection to the size multiple. A model of
    one fixed size gets exactly that; of larger images only the centre (`RestorationSession.restore`
    gives it tiles instead).
    """
    size = model_size(card, *image.shape[:2])
    top, left = (max(0, (side - most) // 2) for side, most in zip(image.shape[:2], size, strict=True))
    image = pad_image(image[top : top + size[0], left : left + size[1]], *size)
    low, high = card.value_range
    tensor = (image * (high - low) + low).astype(np.float32)
    return (tensor if card.layout == "NHWC" else tensor.transpose(2, 0, 1))[None]


def tensor_to_image(tensor: Tensor, card: ModelCard, height: int, width: int) -> Image:
    """One output tensor to [height * scale, width * scale, C]; values are not clipped.

    Args:
        height: of the degraded image before padding.
        width: likewise.

    Raises:
        UserError: the output is not `scale` times the padded input.
    """
    image = tensor[0] if card.layout == "NHWC" else tensor[0].transpose(1, 2, 0)
    expected = tuple(side * card.scale for side in model_size(card, height, width))
    if image.shape[:2] != expected:
        raise UserError(
            f"the model restores {width}x{height} to {image.shape[1]}x{image.shape[0]} and its card says scale "
            f"{card.scale}, {expected[1]}x{expected[0]}; is this the right model?"
        )
    low, high = card.value_range
    cropped = image[: height * card.scale, : width * card.scale].astype(np.float32)
    return np.ascontiguousarray((cropped - low) / (high - low), dtype=np.float32)
