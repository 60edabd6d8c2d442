"""Whether a hardened model may be run in tiles: tile-wise against whole-image output, beside the clean teacher's."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx
from pydantic import BaseModel, Field

from kdguard.export.image_pairs import ImagePair
from kdguard.export.model_card import ModelCard
from kdguard.export.tasks import get_task
from kdguard.runtime.metrics import psnr
from kdguard.runtime.session import RestorationSession
from kdguard.runtime.tiling import restore_tiled

IMAGES = 2
TOLERATED_DB = 1.0
"""How much less a tile-safe model may agree with itself than the clean teacher does."""
IDENTICAL_DB = 100.0
"""Agreement beyond this is rounding; a difference up there means nothing."""


class TilingReport(BaseModel):
    """Tile-wise against whole-image output, PSNR in dB, mean over images; 200 where identical."""

    n: int
    tile: int = Field(description="side of the square tiles in pixels of the degraded image")
    overlap: int
    clean_db: float
    hardened_db: float

    @property
    def seams(self) -> bool:
        """Whether tiles cost the hardened model more agreement than the clean one."""
        return min(self.hardened_db, IDENTICAL_DB) < min(self.clean_db, IDENTICAL_DB) - TOLERATED_DB


def measure_tiling(
    teacher: onnx.ModelProto, hardened: onnx.ModelProto, card: ModelCard, pairs: Sequence[ImagePair]
) -> TilingReport | None:
    """Run both models whole and in tiles; None where no image is large enough to need four tiles.

    The tile is about half of the smallest image's shorter side, the overlap an eighth of the tile.
    """
    if card.fixed_size is not None:
        return None
    shortest = min(min(pair.degraded.shape[:2]) for pair in pairs)
    step = max(card.size_multiple, 8)
    tile = (shortest // 2 + step) // step * step
    overlap = max(card.size_multiple, tile // 8)
    overlap += -overlap % card.size_multiple
    if tile >= shortest or tile - 2 * overlap < step:
        return None
    task, agreements, chosen = get_task(card.task), [], pairs[:IMAGES]
    for model in (teacher, hardened):
        session = RestorationSession(model, card)
        found = [
            psnr(
                restore_tiled(session, pair.degraded, tile, overlap),
                session.restore(pair.degraded),
                task,
                card.scale,
                clip=False,
            )
            for pair in chosen
        ]
        session.release()
        agreements.append(float(np.mean(found)))
    clean_db, hardened_db = agreements
    return TilingReport(n=len(chosen), tile=tile, overlap=overlap, clean_db=clean_db, hardened_db=hardened_db)
