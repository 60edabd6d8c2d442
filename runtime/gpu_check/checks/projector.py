"""The projector kernel against LAPACK in float64, at gaps that it promises to resolve."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from kdguard.runtime.gpu_check.context import Context
from kdguard.runtime.gpu_check.report import CheckResult, compared
from kdguard.runtime.gpu_check.subjects import exact_projector, gram_with_gap, projector

PROMISED = 1e-5
GAPS = (1e-2, 0.3)
SIZES = ((3, 2), (16, 4), (17, 16), (64, 4), (96, 8), (128, 4), (160, 4), (256, 8), (512, 4))
SMALL_SIZES = ((3, 2), (17, 4))
NAME = "projector"


def check(context: Context) -> Iterator[CheckResult]:
    """Compare for each number of channels: what fits into shared memory, and what does not."""
    for channels, rank in SMALL_SIZES if context.small else SIZES:
        for gap in GAPS:
            gram = np.concatenate([gram_with_gap(channels, rank, gap, seed) for seed in range(2)])
            error = np.abs(projector(context.library.project(gram, rank)) - exact_projector(gram, rank)).max()
            yield compared(NAME, f"{channels} channels, rank {rank}, gap {gap:g}", float(error), PROMISED)
