"""The tiles that students are trained and validated on, cut from the attacker's images."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from kdguard.export.errors import UserError
from kdguard.export.image_pairs import ImagePair
from kdguard.export.model_card import ModelCard
from kdguard.runtime.red_team.tile import Tile, grid_of, window_around
from kdguard.runtime.red_team.zoom import zoomed_in, zoomed_out

MIN_TILE = 16
"""Smaller pieces are all border."""

VALIDATION_SHARE = 5
"""Every fifth image validates."""

VALIDATION_TILES = 8
SPLIT = 0.75
"""Where an image that must both train and validate is cut, as a share of its longer side."""

ZOOMED_WINDOWS = 16
"""Windows to zoom where there are fewer images; each is one more question to the teacher."""


@dataclass(frozen=True)
class Pieces:
    """Equally sized tiles.

    Attributes:
        train: to train on.
        validation: from other images than `train`, or from another part of the same one.
        made: how many of the last training tiles the recipe made itself; it has no ground truth for them.
    """

    train: list[Tile]
    validation: list[Tile]
    made: int = 0


class Scissors:
    """Cuts an attacker's images; the same seed cuts the same tiles, whatever else was cut before.

    Attributes:
        side: of the tiles, in pixels of the degraded image.
        images: how many are trained on, and how many validate; 0 of the latter where one image does both.
    """

    def __init__(self, images: Sequence[ImagePair], card: ModelCard, count: int, side: int, seed: int) -> None:
        """Choose the tiles' size, and set images aside for validation.

        Args:
            images: what the attacker owns; test images are not among them.
            count: training tiles to cut.
            side: wished side of a tile in pixels of the degraded image. It shrinks to that of the
                median image and to a multiple of what the model takes: a padded tile's feature map
                would not line up with it. A model of one fixed size decides it.

        Raises:
            UserError: the images are too small, or the model's fixed size is not square.
        """
        self._card, self._count, self._seed, self._wished = card, count, seed, side
        self.side = self._side_for([int(np.median([_shorter(image) for image in images]))])
        self._images = [image for image in images if _shorter(image) >= self.side]
        self._train = [image for index, image in enumerate(self._images) if index % VALIDATION_SHARE]
        self._validation = self._images[::VALIDATION_SHARE]
        whole = bool(self._train)
        if not whole:
            self._train, self._validation, self.side = self._split(self._images[0])
        self.images = len(self._train), len(self._validation) if whole else 0

        self._own = Pieces(
            self._cut(self._train, self._count, 2, self.side),
            self._cut(self._validation, VALIDATION_TILES, 1, self.side),
        )

    def own(self) -> Pieces:
        """Tiles at random places of the attacker's images; cut once."""
        return self._own

    def of_one_image(self) -> Pieces:
        """As many tiles, all from the largest image; those that validate are from another part of it."""
        largest = max(self._images, key=lambda pair: pair.degraded.shape[0] * pair.degraded.shape[1])
        train, validation, side = self._split(largest)
        return Pieces(self._cut(train, self._count, 3, side), self._cut(validation, VALIDATION_TILES, 4, side))

    def with_zoomed(self) -> Pieces:
        """The attacker's own tiles, then as many of zoomed-in images and as many of zoomed-out ones.

        It is windows of images that are zoomed, and tiles are cut from these, so that a teacher sees
        what lies around them, too.
        """
        own = self.own()
        windows = math.ceil(ZOOMED_WINDOWS / len(self._train))
        made: list[Tile] = []
        for stream, zoom in enumerate((zoomed_in, zoomed_out), 5):
            rng = np.random.default_rng([self._seed, stream, 1])
            images = [zoom(pair, self.side, self._card.scale, windows, rng) for pair in self._train[: self._count]]
            made += self._cut([image for several in images for image in several], self._count, stream, self.side)
        return replace(own, train=own.train + made, made=len(made))

    def _side_for(self, lengths: Sequence[int]) -> int:
        """The largest side that fits into all of `lengths` and that the model takes."""
        card, side = self._card, self._wished
        if card.fixed_size:
            side, other = card.fixed_size
            if side != other:
                raise UserError(
                    f"the model takes images of {other}x{side} only, and students are trained on square tiles"
                )
            card = card.model_copy(update={"size_multiple": side})
        room = min(lengths)
        side = min(max(side, card.size_multiple), room)
        side -= side % card.size_multiple
        if side < max(card.size_multiple, MIN_TILE):
            raise UserError(
                f"the images to train on are too small: tiles of {max(card.size_multiple, MIN_TILE)} pixels are "
                f"needed, the median image has {room}"
            )
        return side

    def _cut(self, images: Sequence[ImagePair], count: int, stream: int, side: int) -> list[Tile]:
        card, rng = self._card, np.random.default_rng([self._seed, stream])
        scale, grid = card.scale, grid_of(card)
        windows: dict[tuple[int, int, int], NDArray[np.float32]] = {}
        tiles = []
        for index in range(count):
            pair = images[index % len(images)]
            top, left = (int(rng.integers((length - side) // grid + 1)) * grid for length in pair.degraded.shape[:2])
            low = (slice(top, top + side), slice(left, left + side))
            high = (slice(top * scale, (top + side) * scale), slice(left * scale, (left + side) * scale))
            row, column, most = window_around(pair.degraded, (top, left), side, card)
            around = windows.setdefault(
                (index % len(images), row, column), pair.degraded[row : row + most, column : column + most]
            )
            name = f"{pair.name}#{index}"
            tiles.append(Tile(name, pair.degraded[low], pair.clean[high], around, top - row, left - column))
        return tiles

    def _split(self, image: ImagePair) -> tuple[list[ImagePair], list[ImagePair], int]:
        """Two parts of one image, cut across its longer side, and the side of tiles that fit into both."""
        axis = int(np.argmax(image.degraded.shape[:2]))
        length, scale = image.degraded.shape[axis], self._card.scale
        # Where the smaller part would have no room for a tile, it gets up to half.
        room = min(self._wished, image.degraded.shape[1 - axis], length // 2)
        at = min(int(length * SPLIT), length - room)
        parts = [
            ImagePair(
                image.name,
                image.degraded.take(range(start, stop), axis),
                image.clean.take(range(start * scale, stop * scale), axis),
            )
            for start, stop in ((0, at), (at, length))
        ]
        return parts[:1], parts[1:], self._side_for([_shorter(part) for part in parts])


def _shorter(pair: ImagePair) -> int:
    return min(pair.degraded.shape[:2])
