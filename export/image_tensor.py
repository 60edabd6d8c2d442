"""Images to model tensors and back, as the model card says: layout, value range, size multiple."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from kdguard.export.errors import UserError
from kdguard.export.model_card import ModelCard
from kdguard.export.tasks import Image

Tensor = NDArray[np.floating]


def image_to_tensor(image: Image, card: ModelCard) -> Tensor:
    """[H, W, C] in [0, 1] to [1, C, H', W'] or [1, H', W', C] float32 in the model's range.

    H' and W' are H and W padded at the bottom and right by reflection to the size multiple.
    """
    padding = [(0, -side % card.size_multiple) for side in image.shape[:2]]
    if any(after for _, after in padding):
        # Reflection needs more pixels than it adds; tiny images repeat their edge instead.
        reflects = all(after < side for (_, after), side in zip(padding, image.shape[:2], strict=True))
        image = np.pad(image, [*padding, (0, 0)], mode="reflect" if reflects else "edge")
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
    expected = tuple((side + -side % card.size_multiple) * card.scale for side in (height, width))
    if image.shape[:2] != expected:
        raise UserError(
            f"the model restores {width}x{height} to {image.shape[1]}x{image.shape[0]} and its card says scale "
            f"{card.scale}, {expected[1]}x{expected[0]}; is this the right model?"
        )
    low, high = card.value_range
    cropped = image[: height * card.scale, : width * card.scale].astype(np.float32)
    return np.ascontiguousarray((cropped - low) / (high - low), dtype=np.float32)
