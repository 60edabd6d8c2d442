"""Hardened over clean latency of a small convolutional network at 720p on onnxruntime's CUDA provider."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from kdguard.runtime.gpu_check.context import Context
from kdguard.runtime.gpu_check.network import (
    PLACEMENTS,
    build_native_library,
    cuda_session,
    hardened_network,
    small_network,
)
from kdguard.runtime.gpu_check.report import Timing
from kdguard.runtime.gpu_check.timings.clock import medians

SIZE, WIDTH, DEPTH, ROUNDS = (720, 1280), 64, 8, 21
NAME = "network-latency"


def measure(context: Context) -> Iterator[Timing]:
    """Time with input and output bound to the device; TF32 as onnxruntime has it."""
    library = build_native_library(context.folder)
    for dtype in ("float32", "float16"):
        clean = small_network(dtype, WIDTH, DEPTH)
        image = np.random.default_rng(0).random((1, 3, *SIZE)).astype(dtype)
        works = {"clean": _bound(cuda_session(clean, "cuda", None, tf32=True), image)}
        for placement in PLACEMENTS:
            model = hardened_network(clean, placement)
            for name, native in (("native", library), ("function", None)):
                works[f"{placement}, {name}"] = _bound(cuda_session(model, "cuda", native, tf32=True), image)
        taken = medians(works, _wall_milliseconds, ROUNDS)
        ratios = {f"{name} / clean": round(taken[name] / taken["clean"], 4) for name in taken if name != "clean"}
        what = f"{DEPTH} 3x3 convolutions of {WIDTH} channels at {SIZE[1]}x{SIZE[0]}, one hardened, {dtype}"
        yield Timing(NAME, what, "timed", taken, ratios, ROUNDS)


def _bound(session: Any, image: np.ndarray) -> Callable[[], None]:
    """A run whose tensors stay on the device; only `restored` is asked for."""
    import onnxruntime

    binding = session.io_binding()
    binding.bind_ortvalue_input("image", onnxruntime.OrtValue.ortvalue_from_numpy(image, "cuda", 0))
    binding.bind_output("restored", "cuda")

    def run() -> None:
        session.run_with_iobinding(binding)
        binding.synchronize_outputs()

    return run


def _wall_milliseconds(work: Callable[[], object]) -> float:
    started = time.perf_counter()
    work()
    return (time.perf_counter() - started) * 1000
