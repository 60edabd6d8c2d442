"""One image is all he asks about: its patches teach the student."""

from __future__ import annotations

from typing import TYPE_CHECKING

from kdguard.runtime.recipes.output_l1 import OutputL1

if TYPE_CHECKING:
    from kdguard.runtime.red_team.pieces import Pieces, Scissors


class SingleQuery(OutputL1):
    """L1(S, T) on patches of one image, the largest; he validates on another part of it."""

    name = "single-query"
    source = "arXiv 2406.00828"

    def pieces(self, scissors: Scissors) -> Pieces:
        return scissors.of_one_image()
