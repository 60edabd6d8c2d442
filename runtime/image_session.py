"""What every session does, whatever runs the network: images in and out, padding, batches, tiles."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kdguard.export.errors import UserError
from kdguard.export.image_tensor import Tensor, image_to_tensor, tensor_to_image
from kdguard.export.model_card import ModelCard, describe_shape
from kdguard.export.tasks import Image
from kdguard.runtime.tiling import default_overlap, restore_tiled


class ImageSession(ABC):
    """A restoration model ready to run.

    Attributes:
        card: how the model wants its images.
        taps: intermediate tensors that `run` returns beside the output.
        large: whether it is built when it is first used, so that two of them can be declared without being held at
            once; `release` gives its memory back.
    """

    card: ModelCard
    taps: tuple[str, ...] = ()
    large: bool = False

    @property
    @abstractmethod
    def provider(self) -> str:
        """What really runs the network."""

    @property
    @abstractmethod
    def kernels(self) -> str:
        """What runs kdguard's op: `native`, `plugin`, `function`, or `none` where the model does not hold it."""

    def release(self) -> None:  # noqa: B027  most hold nothing that is worth it
        """Give memory back that the next run takes again."""

    @abstractmethod
    def _run(self, tensor: Tensor, further: Mapping[str, NDArray[Any]]) -> list[Tensor]:
        """The output and the taps, float32, for an input tensor in the model's own layout, range and batch."""

    def run(self, tensor: Tensor, further: Mapping[str, NDArray[Any]] | None = None) -> list[Tensor]:
        """The output and the taps, float32, for an input tensor in the model's own layout and range.

        A model that insists on a batch gets one image repeated, and answers for one.

        Args:
            further: values of inputs that the card does not know, by name; of those it knows, in place of its own.
        """
        if self.card.batch > 1 and len(tensor) == 1:
            outputs = self._run(np.repeat(tensor, self.card.batch, 0), further or {})
            return [_first_share(output, self.card.batch) for output in outputs]
        return self._run(tensor, further or {})

    def restore(self, degraded: Image, further: Mapping[str, NDArray[Any]] | None = None) -> Image:
        """Restore one image [H, W, C], floating point, 0 black and 1 white; over- and undershoot are not clipped.

        Images whose size is no multiple of the card's are padded by reflection and cropped back; a
        model of one fixed size restores others tile by tile.

        Args:
            further: as for `run`.

        Raises:
            UserError: not such an image, other channels than the card's, or the model fails on it.
        """
        _refuse_other_arrays(degraded, self.card.channels)
        size = self.card.fixed_size
        if size and degraded.shape[:2] != size:
            return restore_tiled(_Fed(self, further or {}), degraded, size, default_overlap(size))
        output = self.run(image_to_tensor(degraded, self.card), further)[0]
        return tensor_to_image(output, self.card, *degraded.shape[:2])


class _Fed:
    """A session with further inputs held fixed, for whoever asks image by image."""

    def __init__(self, session: ImageSession, further: Mapping[str, NDArray[Any]]) -> None:
        self.card = session.card
        self._session, self._further = session, further

    def restore(self, degraded: Image) -> Image:
        return self._session.restore(degraded, self._further)


def _refuse_other_arrays(image: NDArray[Any], channels: int) -> None:
    """Raise where an array is no image for the model: 8-bit values would be taken for a hundred times white."""
    if image.ndim == 3 and image.shape[2] == channels and np.issubdtype(image.dtype, np.floating):
        return
    advice = "" if np.issubdtype(image.dtype, np.floating) else "; divide 8-bit values by 255"
    raise UserError(
        f"restore takes a floating-point image [H, W, {channels}] with 0 for black and 1 for white, and this is "
        f"{image.dtype} {describe_shape(image.shape)}{advice}"
    )


def _first_share(output: Tensor, batch: int) -> Tensor:
    """What a batch of equal images gave for the first one; tensors without a batch axis stay as they are."""
    whole = output.ndim and len(output) % batch == 0
    return output[: len(output) // batch] if whole else output
