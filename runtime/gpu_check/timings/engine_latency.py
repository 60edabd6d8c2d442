"""Hardened over clean latency of a small convolutional network at 720p, by engines of each vendor that is installed."""

from __future__ import annotations

import statistics
from collections.abc import Iterator

import numpy as np

from kdguard.export.errors import UserError, first_line
from kdguard.runtime.engines import ENGINES, EngineKind
from kdguard.runtime.gpu_check.context import Context, Skipped
from kdguard.runtime.gpu_check.engines import PRECISIONS, running_engines
from kdguard.runtime.gpu_check.network import PLACEMENTS, hardened_network, small_network
from kdguard.runtime.gpu_check.report import Timing

SIZE, WIDTH, DEPTH, ROUNDS = (720, 1280), 64, 8, 21
SMALL_SIZE, SMALL_WIDTH, SMALL_ROUNDS = (32, 48), 4, 3
NAME = "engine-latency"


def measure(context: Context) -> Iterator[Timing]:
    """Time by turns in one process, image and outputs on the GPU."""
    for kind in ENGINES.values():
        for precision in PRECISIONS:
            what = f"{kind.title}, {precision}"
            try:
                yield _measure(kind, precision, context)
            except Skipped as reason:
                yield Timing(NAME, what, "skipped", reason=str(reason))
            except UserError as error:
                yield Timing(NAME, what, "failed", reason=first_line(error))


def _measure(kind: EngineKind, precision: str, context: Context) -> Timing:
    size, rounds = (SMALL_SIZE, SMALL_ROUNDS) if context.small else (SIZE, ROUNDS)
    width = SMALL_WIDTH if context.small else WIDTH
    clean = small_network("float32", width, DEPTH)
    models = {"clean": clean}
    models |= {placement: hardened_network(clean, placement, exposed=False) for placement in PLACEMENTS}
    image = np.random.default_rng(0).random((1, 3, *size), np.float32)
    with running_engines(models, kind, context.folder, precision, size) as process:
        seconds = process.time({"image": image}, rounds)
    taken = {name: round(statistics.median(each) * 1000, 5) for name, each in zip(models, seconds, strict=True)}
    ratios = {f"{name} / clean": round(taken[name] / taken["clean"], 4) for name in PLACEMENTS}
    network = f"{DEPTH} 3x3 convolutions of {width} channels at {size[1]}x{size[0]}, one hardened"
    return Timing(NAME, f"{kind.title}, {precision}, {network}", "timed", taken, ratios, rounds)
