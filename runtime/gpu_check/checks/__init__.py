"""Comparisons, one file each. A check yields its results; what raises `Skipped` was left out."""

from collections.abc import Callable, Iterator

from kdguard.runtime.gpu_check.checks import (
    compute_sanitizer,
    engines,
    kernels,
    onnxruntime_cuda,
    projector,
    torch_streams,
)
from kdguard.runtime.gpu_check.context import Context
from kdguard.runtime.gpu_check.report import CheckResult

CHECKS: dict[str, Callable[[Context], Iterator[CheckResult]]] = {
    "kernels": kernels.check,
    "projector": projector.check,
    "compute-sanitizer": compute_sanitizer.check,
    "torch-streams": torch_streams.check,
    "onnxruntime-cuda": onnxruntime_cuda.check,
    "engines": engines.check,
}
