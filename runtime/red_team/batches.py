"""Random crops of the tiles with the teacher's answers to them, in step."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from kdguard.runtime.recipes import Batch, Recipe
from kdguard.runtime.red_team.material import Material

if TYPE_CHECKING:
    import torch

Array = NDArray[np.float32]


class Batches:
    """Draws training batches; holds the validation tiles.

    Attributes:
        channels: of the images.
        map_channels: of the teacher's maps, one entry per map.
    """

    def __init__(self, material: Material, recipe: Recipe, patch: int, seed: int, device: torch.device) -> None:
        """Map the arrays.

        Args:
            patch: side of the crops in pixels of the degraded image; smaller tiles make it smaller.
        """
        tiles, answers = material.tiles, material.answers
        self._tiles, self._device = tiles, device
        self._degraded, self._clean = _mapped(tiles.degraded), _mapped(tiles.clean)
        self._outputs = _mapped(answers.output) if answers else None
        self._spreads = _mapped(answers.spread) if answers and answers.spread else None
        self._maps = [_mapped(path) for path in answers.maps] if answers and recipe.taps else []
        self._rng = np.random.default_rng([seed, 1])
        self.channels: int = self._degraded.shape[1]
        self.map_channels = tuple(maps.shape[1] for maps in self._maps)
        # Crops start where a pixel of the tapped map starts, so that image and map stay aligned.
        self._grid = max([1, *(round(self._degraded.shape[2] / maps.shape[2]) for maps in self._maps)])
        patch = min(patch, *self._degraded.shape[2:])
        self._patch = max(self._grid, patch - patch % self._grid)

    def draw(self, count: int) -> Batch:
        """`count` crops at random places of random training tiles."""
        import torch

        height, width = self._degraded.shape[2:]
        indices, places = [], []
        for _ in range(count):
            index, top, left = int(self._rng.integers(self._tiles.train)), self._start(height), self._start(width)
            places.append((index, top, left))
            indices.append(index)
        owned = np.array(indices) < self._tiles.train - self._tiles.made
        return Batch(
            degraded=self._crops(self._degraded, places),
            clean=self._crops(self._clean, places),
            owned=torch.from_numpy(owned).to(self._device),
            teacher_output=None if self._outputs is None else self._crops(self._outputs, places),
            teacher_maps=tuple(self._crops(maps, places) for maps in self._maps),
            teacher_spread=None if self._spreads is None else self._crops(self._spreads, places),
        )

    def validation(self, truth: bool) -> tuple[torch.Tensor, torch.Tensor]:
        """Degraded validation tiles, and what a student's answers to them are measured against.

        Args:
            truth: against ground truth; else against the teacher's outputs, which is all that an
                attacker without ground truth has.
        """
        import torch

        wanted = self._clean if truth or self._outputs is None else self._outputs
        first = self._tiles.train
        return (
            torch.from_numpy(np.array(self._degraded[first:])).to(self._device),
            torch.from_numpy(np.array(wanted[first:])).to(self._device),
        )

    def _start(self, side: int) -> int:
        return int(self._rng.integers((side - self._patch) // self._grid + 1)) * self._grid

    def _crops(self, array: Array, places: list[tuple[int, int, int]]) -> torch.Tensor:
        """The same crops of an array whose height and width are those of the tiles times a ratio."""
        import torch

        ratio_y, ratio_x = (a / b for a, b in zip(array.shape[2:], self._degraded.shape[2:], strict=True))
        height, width = round(self._patch * ratio_y), round(self._patch * ratio_x)
        crops = []
        for index, top, left in places:
            y, x = round(top * ratio_y), round(left * ratio_x)
            crops.append(array[index, :, y : y + height, x : x + width])
        return torch.from_numpy(np.stack(crops)).to(self._device)


def _mapped(path: object) -> Array:
    return np.load(str(path), mmap_mode="r")
