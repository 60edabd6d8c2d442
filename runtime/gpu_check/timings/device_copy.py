"""The op, and its parts, over a copy of the same tensor on the device: what moving the map once costs."""

from __future__ import annotations

import ctypes
from collections.abc import Iterator
from functools import partial

import numpy as np

from kdguard.runtime.gpu_check.context import Context
from kdguard.runtime.gpu_check.report import Timing
from kdguard.runtime.gpu_check.subjects import PlainAttributes
from kdguard.runtime.gpu_check.timings.clock import EventClock, medians
from kdguard.runtime.kernels.device_library import ELEMENTS

SHAPE, SMALL_SHAPE = (1, 64, 1080, 1920), (1, 16, 8, 40)
ROUNDS, SMALL_ROUNDS = 31, 3
NAME = "device-copy"


def measure(context: Context) -> Iterator[Timing]:
    """Time the plain op with and without the change, the Gram matrix alone, the restorer, and the copy.

    On noise, whose singular values are close to each other: the projector then saves itself no squaring.
    """
    shape, rounds = (SMALL_SHAPE, SMALL_ROUNDS) if context.small else (SHAPE, ROUNDS)
    rng = np.random.default_rng(0)
    maps = rng.standard_normal(shape, np.float32)
    for dtype in ("float16", "float32"):
        yield _measure(context, maps.astype(dtype), dtype, rounds)


def _measure(context: Context, maps: np.ndarray, dtype: str, rounds: int) -> Timing:
    library, attributes = context.library, PlainAttributes()
    with (
        library.prepared(attributes, maps.shape) as prepared,
        library.upload(maps) as source,
        library.memory(maps.nbytes) as output,
        library.memory(maps.size * 4) as change,
        library.memory(maps.shape[1] ** 2 * 4) as gram,
        EventClock(library) as clock,
    ):
        settings, map_shape, scratch = prepared
        element, both = ELEMENTS[dtype], (ctypes.byref(settings), ctypes.byref(map_shape))
        works = {
            "copy": partial(library.call, "kdguard_copy_on_device", output, source, maps.nbytes, None),
            "op": partial(library.queue_perturb, dtype, prepared, (source, output, None)),
            "op with change": partial(library.queue_perturb, dtype, prepared, (source, output, change)),
            "gram": partial(library.call, "kdguard_gram", element, *both, source, gram, scratch, None),
            "restore": partial(library.call, "kdguard_svd_restore", element, maps.size, output, change, output, None),
        }
        taken = medians(works, clock.milliseconds, rounds)
    ratios = {f"{name} / copy": round(taken[name] / taken["copy"], 4) for name in taken if name != "copy"}
    size = "x".join(map(str, maps.shape[1:]))
    return Timing(NAME, f"rank 4 on {size} of noise, {dtype}", "timed", taken, ratios, rounds)
