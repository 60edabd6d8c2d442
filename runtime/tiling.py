"""Restoring an image tile by tile: for models of one fixed size, and to see whether tiles fit together."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import Protocol

import numpy as np

from kdguard.export.errors import UserError
from kdguard.export.image_tensor import model_size, pad_image
from kdguard.export.model_card import ModelCard
from kdguard.export.tasks import Image

MAX_DEFAULT_OVERLAP = 32


class Restorer(Protocol):
    """What tiling needs of a session."""

    card: ModelCard

    def restore(self, degraded: Image) -> Image:
        """Restore one image [H, W, C] in [0, 1]."""
        ...


@dataclass(frozen=True)
class _Span:
    """One tile along one axis: where it starts, and which part of the result it gives."""

    start: int
    keep_from: int
    keep_to: int


def default_overlap(tile: tuple[int, int]) -> int:
    """Pixels that a tile of this size sees beyond what is kept of it, on every inner side."""
    return min(MAX_DEFAULT_OVERLAP, min(tile) // 4)


def restore_tiled(session: Restorer, image: Image, tile: int | tuple[int, int], overlap: int) -> Image:
    """Restore an image of any size from overlapping tiles of one size.

    Equals the whole image's result where the overlap covers the model's receptive field, and nothing
    in the model looks at the whole image. Tiles start at multiples of the card's size multiple, so
    that strides fall on the same pixels as in the whole image.

    Args:
        image: [H, W, C] in [0, 1]; padded by reflection where it is smaller than a tile that the
            model insists on.
        tile: height and width of a tile in pixels of the degraded image, or one number for both; the
            fixed size of a model that has one. Larger than a free-size model's image: one tile.
        overlap: pixels cut off at every inner side of a tile; rounded up to the size multiple.

    Returns:
        [H * scale, W * scale, C], not clipped.

    Raises:
        UserError: the tile is no size for this model, or the overlap leaves nothing of it.
    """
    card = session.card
    tile = (tile, tile) if isinstance(tile, int) else tile
    multiple = 1 if card.fixed_size else card.size_multiple
    overlap += -overlap % multiple
    if card.fixed_size not in (None, tile):
        raise UserError(f"the model takes images of {card.fixed_size} only, and tiles of {tile} were asked for")
    if overlap < 0 or any(side % multiple or side - 2 * overlap < multiple for side in tile):
        raise UserError(
            f"tiles of {tile[1]}x{tile[0]} with an overlap of {overlap} do not work: sides must be multiples of "
            f"{multiple} and more than twice the overlap"
        )
    height, width = image.shape[:2]
    if card.fixed_size:
        size = max(height, tile[0]), max(width, tile[1])
    else:
        size = model_size(card, height, width)
        tile = min(tile[0], size[0]), min(tile[1], size[1])
    padded, scale = pad_image(image, *size), card.scale
    restored: Image | None = None
    for rows in _spans(size[0], tile[0], overlap):
        for columns in _spans(size[1], tile[1], overlap):
            top, left = rows.start, columns.start
            piece = session.restore(padded[top : top + tile[0], left : left + tile[1]])
            if restored is None:
                restored = np.empty((size[0] * scale, size[1] * scale, piece.shape[2]), np.float32)
            kept = piece[_scaled(rows, scale, top), _scaled(columns, scale, left)]
            restored[_scaled(rows, scale), _scaled(columns, scale)] = kept
    assert restored is not None
    return np.ascontiguousarray(restored[: height * scale, : width * scale])


def _spans(size: int, tile: int, overlap: int) -> Iterator[_Span]:
    """Tiles that cover `size` pixels; the last one is moved back to end with the image."""
    starts = [*range(0, size - tile, tile - 2 * overlap), size - tile]
    # Neighbours meet in the middle of what both see.
    seams = [0, *((here + there + tile) // 2 for here, there in pairwise(starts)), size]
    for index, start in enumerate(starts):
        yield _Span(start, seams[index], seams[index + 1])


def _scaled(span: _Span, scale: int, origin: int = 0) -> slice:
    return slice((span.keep_from - origin) * scale, (span.keep_to - origin) * scale)
