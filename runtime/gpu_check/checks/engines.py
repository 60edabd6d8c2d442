"""Engines of a hardened model by TensorRT and TensorRT-RTX, fp32 and fp16, against onnxruntime's CPU provider."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from kdguard.export.errors import UserError, first_line
from kdguard.runtime.engines import ENGINES, EngineKind
from kdguard.runtime.gpu_check.context import Context, Skipped
from kdguard.runtime.gpu_check.engines import running_engines
from kdguard.runtime.gpu_check.network import cuda_session, hardened_twice, output_error, small_network
from kdguard.runtime.gpu_check.report import CheckResult, compared

SIZE = (61, 83)
LIMITS = {"fp32": 1e-4, "fp16": 2e-2}
"""As `output_error` counts. Polygraphy builds without TF32."""
NAME = "engines"


def check(context: Context) -> Iterator[CheckResult]:
    """Compare the restored image and both misleading taps, by each vendor that is installed."""
    for kind in ENGINES.values():
        for precision, limit in LIMITS.items():
            what = f"{kind.title}, {precision}"
            try:
                yield compared(NAME, what, _error(kind, precision, context), limit)
            except Skipped as reason:
                yield CheckResult(NAME, what, "skipped", str(reason))
            except UserError as error:
                yield CheckResult(NAME, what, "failed", first_line(error))


def _error(kind: EngineKind, precision: str, context: Context) -> float:
    """Against the same network in the same precision, by its functions."""
    model = hardened_twice(small_network("float32", width=24, depth=4))
    image = np.random.default_rng(0).random((1, 3, *SIZE), np.float32)
    with running_engines({"hardened": model}, kind, context.folder, precision, SIZE) as process:
        found = process.infer(0, {"image": image})
    session = cuda_session(_in_precision(model, precision), "cpu", None)
    names = [output.name for output in session.get_outputs()]
    expected = dict(zip(names, session.run(names, {"image": image}), strict=True))
    return max(output_error(found[name], expected[name], precision == "fp16") for name in names)


def _in_precision(model: Any, precision: str) -> Any:
    from kdguard.graph_passes.half_precision import HalfPrecision

    return HalfPrecision()(model).model if precision == "fp16" else model
