"""What a user may ask of `kdguard harden`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from kdguard.export.errors import UserError
from kdguard.graph_passes.op import SvdPerturbAttributes

PlacementChoice = Literal["auto", "in-path", "paired", "compensated"]
AUTO = "auto"
AUTO_STANDS_ALONE = "auto stands alone, since it leaves the choice to kdguard; leave it out, or the other layers"


@dataclass(frozen=True)
class HardenOptions:
    """What to insert and where.

    Attributes:
        globs: layers by name; `("auto",)` leaves the choice to the calibration data.
        op_types: layers by operator.
        placement: `auto` is paired and compensated together where layers are chosen, paired where named.
        attributes: of every node; None for those that fit the placement.
        gain: overrides the attributes' one. Without either (1, the op's default, would do nothing) gains
            are calibrated per layer, and `UNCALIBRATED_GAIN` where there are no images.
        max_slowdown: hardened over clean time up to which further taps are covered.
        tile_safe: no in-path node that shows seams when the model is run in tiles.
        cache: folder for analyses.
    """

    globs: Sequence[str] = (AUTO,)
    op_types: Sequence[str] = ()
    placement: PlacementChoice = "auto"
    attributes: SvdPerturbAttributes | None = None
    gain: float | None = None
    budget_db: float = 0.1
    seed: int = 0
    max_slowdown: float = 1.05
    tile_safe: bool = False
    cache: Path | None = None

    def __post_init__(self) -> None:
        """Refuse a choice that is left to kdguard and made.

        Raises:
            UserError: `auto` beside other globs or operators.
        """
        if AUTO in self.globs and not self.chooses_layers:
            raise UserError(f"--layers {','.join(self.globs)}: {AUTO_STANDS_ALONE}")

    @property
    def chooses_layers(self) -> bool:
        """Whether the layers are left to kdguard."""
        return tuple(self.globs) == (AUTO,) and not self.op_types

    @property
    def only_pairs(self) -> bool:
        """Whether every node is restored before its readers, so that tiles cannot show seams."""
        return self.placement == "paired" or (self.placement == "auto" and not self.chooses_layers)

    @property
    def fixed_gain(self) -> float | None:
        """The gain that the user named, if any."""
        if self.gain is not None:
            return self.gain
        return self.attributes.gain if self.attributes and self.attributes.gain != 1 else None

    @property
    def needs_data(self) -> bool:
        """Whether nothing can be done without images."""
        scans = self.placement == "in-path" and self.fixed_gain is None
        return self.chooses_layers or scans or self.placement == "compensated"
