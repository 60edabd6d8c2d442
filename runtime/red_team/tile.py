"""A piece of an image, and the larger one that a teacher is asked about to learn its answer there."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from kdguard.export.image_pairs import ImagePair, hash_pairs
from kdguard.export.model_card import ModelCard

WINDOW = 640
"""Most pixels per side that a teacher is asked about at once. Networks that look at the whole image,
with instance normalisation or attention, answer about a small piece much worse: a published dehazing
network falls from 34 to 17 dB (benchmarks/tile_answers.py)."""

GRID = 8
"""Tiles start at multiples of it, so that strided feature maps can be cut where they are."""

Array = NDArray[np.float32]


@dataclass(frozen=True)
class Tile(ImagePair):
    """A piece of an image.

    Attributes:
        around: degraded image [H, W, C] that the teacher is asked about; tiles of one image share the array.
        top: first row of the tile in `around`.
        left: first column.
    """

    around: Array
    top: int = 0
    left: int = 0

    def cut(self, image: Array, scale: int = 1) -> Array:
        """The tile's part of an image [H * scale, W * scale, C] as large as `around` times the scale."""
        height, width = self.degraded.shape[:2]
        return image[
            self.top * scale : (self.top + height) * scale,
            self.left * scale : (self.left + width) * scale,
        ]

    def cut_map(self, values: Array, height: int, width: int) -> Array:
        """The tile's part of a feature map [F, h, w] that belongs to a model input of this height and width.

        Where the map's size is no multiple or fraction of the input's, to the nearest of its pixels.
        """
        rows, columns = (
            _part(start, length, of, whole)
            for start, length, of, whole in zip(
                (self.top, self.left), self.degraded.shape[:2], values.shape[1:], (height, width), strict=True
            )
        )
        return values[:, rows, columns]


def _part(start: int, length: int, of: int, whole: int) -> slice:
    """Where `start` and `length`, measured on `whole` pixels, lie on `of` pixels."""
    size = min(of, max(1, round(length * of / whole)))
    first = min(round(start * of / whole), of - size)
    return slice(first, first + size)


def grid_of(card: ModelCard) -> int:
    """Tiles start at multiples of this."""
    return math.lcm(GRID, card.size_multiple)


def window_around(image: Array, place: tuple[int, int], side: int, card: ModelCard) -> tuple[int, int, int]:
    """First row, first column and most side of the part of an image that is asked about for a tile.

    Args:
        place: the tile's first row and column in the image [H, W, C].
        side: of the tile.
    """
    if card.fixed_size:
        # Such a model would be given tiles anyway.
        return *place, side
    most, grid = max(WINDOW, side), grid_of(card)

    def first(start: int, length: int) -> int:
        wished = max(0, min(start + side // 2 - most // 2, length - most))
        # Rounded up, so that it never ends before the tile does.
        return -(-wished // grid) * grid

    return first(place[0], image.shape[0]), first(place[1], image.shape[1]), most


def hash_tiles(tiles: Sequence[Tile]) -> str:
    """Hexadecimal SHA-256 over tiles and what is asked about for them."""
    digest = hashlib.sha256(hash_pairs(list(tiles)).encode())
    hashes: dict[int, bytes] = {}
    for tile in tiles:
        if id(tile.around) not in hashes:
            hashes[id(tile.around)] = hashlib.sha256(np.ascontiguousarray(tile.around).tobytes()).digest()
        digest.update(hashes[id(tile.around)] + f"{tile.around.shape}{tile.top}{tile.left}".encode())
    return digest.hexdigest()
