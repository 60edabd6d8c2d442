"""Hardened models on onnxruntime's CUDA provider, by native kernels and by functions, against its CPU provider."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from kdguard.runtime.gpu_check.context import Context
from kdguard.runtime.gpu_check.network import (
    PLACEMENTS,
    build_native_library,
    cuda_session,
    hardened_network,
    output_error,
    small_network,
)
from kdguard.runtime.gpu_check.report import CheckResult, compared

SIZE = (61, 83)
LIMITS = {"float32": 1e-4, "float16": 2e-2}
"""As `output_error` counts; whole networks, TF32 switched off."""
NAME = "onnxruntime-cuda"


def check(context: Context) -> Iterator[CheckResult]:
    """Compare outputs and the misleading tap."""
    library = build_native_library(context.folder)
    for dtype, limit in LIMITS.items():
        for placement in PLACEMENTS:
            model = hardened_network(small_network(dtype, width=24, depth=4), placement)
            image = np.random.default_rng(0).random((2, 3, *SIZE)).astype(dtype)
            expected = cuda_session(model, "cpu", None).run(None, {"image": image})
            for name, native in (("native kernels", library), ("functions", None)):
                found = cuda_session(model, "cuda", native).run(None, {"image": image})
                error = max(output_error(*both, dtype == "float16") for both in zip(found, expected, strict=True))
                yield compared(NAME, f"{placement}, {dtype}, {name}", error, limit)
