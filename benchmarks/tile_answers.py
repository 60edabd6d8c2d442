"""What a teacher knows about a tile: its answer cut from the whole image, and its answer to the tile alone.

    python benchmarks/tile_answers.py > benchmarks/results/tile_answers.json

PSNR against ground truth on the published test pairs, mean over tiles. Needs the published teachers below
KDGUARD_ZOO, default ../shared/zoo.
"""

from __future__ import annotations

import numpy as np
import zoo
from output import write_results

from kdguard.export.onnx_files import load_onnx
from kdguard.export.tasks import get_task
from kdguard.runtime.metrics import psnr
from kdguard.runtime.red_team.pieces import Scissors
from kdguard.runtime.resolve_card import resolve_card
from kdguard.runtime.session import RestorationSession

TILES = 24
SIDES = (64, 96)
IMAGES = 8


def measure(name: str, side: int) -> dict[str, object]:
    model = load_onnx(zoo.ZOO / name / "teacher.onnx")
    card, task = resolve_card(model, name), get_task(name)
    session = RestorationSession(model, card)
    tiles = Scissors(zoo.test_pairs(name, card)[:IMAGES], card, TILES, side, seed=0).own().train
    answers = {id(tile.around): session.restore(tile.around) for tile in tiles}
    whole = [psnr(tile.cut(answers[id(tile.around)], card.scale), tile.clean, task, card.scale) for tile in tiles]
    alone = [psnr(session.restore(tile.degraded), tile.clean, task, card.scale) for tile in tiles]
    return {"task": name, "side": tiles[0].degraded.shape[0], "whole_db": np.mean(whole), "alone_db": np.mean(alone)}


def main() -> None:
    rows = [measure(name, side) for name in zoo.tasks() for side in SIDES]
    write_results(tiles=TILES, images=IMAGES, results=rows)


if __name__ == "__main__":
    main()
