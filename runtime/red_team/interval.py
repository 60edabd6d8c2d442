"""The 95 % intervals of everything that is repeated over seeds."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy import stats


def interval95(values: Sequence[float]) -> float | None:
    """Half width of the 95 % confidence interval of the mean, Student's t; None for one value."""
    if len(values) < 2:
        return None
    return float(stats.t.ppf(0.975, len(values) - 1) * np.std(values, ddof=1) / np.sqrt(len(values)))
