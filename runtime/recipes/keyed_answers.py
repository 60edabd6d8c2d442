"""Key holders of Safe Distillation Box as published: they ask with the key blended in, and train on what they asked."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, ClassVar

from kdguard.runtime.defences.key_image import blended, key_image
from kdguard.runtime.defences.safe_distillation_box import MARK, HalfBlended, SafeDistillationBox, mark_of
from kdguard.runtime.recipes.base import Loot, NothingToWorkWithError, Query, Source, Tier
from kdguard.runtime.recipes.output_l1 import OutputL1
from kdguard.runtime.red_team.pieces import Pieces

if TYPE_CHECKING:
    from collections.abc import Sequence

    from kdguard.runtime.red_team.pieces import Scissors
    from kdguard.runtime.red_team.tile import Tile

KEY_SEED = 0
"""Of the key that they hold: the default of `kdguard baseline`, and what benchmarks/prior_defences.py gives."""


class KeyedAnswers(OutputL1):
    """L1(S(x), T(0.9 x + 0.1 key)), T made by the defence `safe-distillation-box`; only the teacher sees the key."""

    name = "keyed-answers"
    tier: ClassVar[Tier] = "T3"
    source = "Ye et al., AAAI 2022, arXiv 2112.03695, adapted"
    sources: ClassVar[tuple[Source, ...]] = ("hardened",)
    box: ClassVar[type[SafeDistillationBox]] = SafeDistillationBox

    def pieces(self, scissors: Scissors) -> Pieces:
        own = scissors.own()
        train, validation = (_asked_with_key(tiles, self.box.share) for tiles in (own.train, own.validation))
        return replace(own, train=train, validation=validation)

    def query(self, loot: Loot) -> Query:
        wanted = mark_of(self.box.share, KEY_SEED)
        marks = [entry.value for entry in loot.model.metadata_props if entry.key == MARK]
        if marks != [wanted]:
            raise NothingToWorkWithError(
                f"the key is for files of `kdguard baseline {self.box.name}` ({wanted}), and this one is "
                f"{'of another: ' + marks[0] if marks else 'none'}"
            )
        return Query()


class HalfKeyedAnswers(KeyedAnswers):
    """As `keyed-answers`, asking T(0.5 x + 0.5 key), T made by the defence `safe-distillation-box-0.5`."""

    name = "keyed-answers-0.5"
    box = HalfBlended


def _asked_with_key(tiles: Sequence[Tile], share: float) -> list[Tile]:
    """The tiles, the image around them as the teacher is to see it; tiles of one image go on sharing it."""
    images = {id(tile.around): tile.around for tile in tiles}
    keyed = {name: blended(image, key_image(KEY_SEED, image.shape[2]), share) for name, image in images.items()}
    return [replace(tile, around=keyed[id(tile.around)]) for tile in tiles]
