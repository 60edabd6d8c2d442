"""The op, its Gram matrix and its restorer by ctypes, against NumPy in float64: shapes, types and every attribute."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any

import numpy as np

from kdguard.graph_passes.op.reference import svd_perturb
from kdguard.runtime.gpu_check.context import Context
from kdguard.runtime.gpu_check.report import CheckResult, compared
from kdguard.runtime.gpu_check.subjects import VARIANTS, PlainAttributes, exact_gram, feature_maps, worst

SHAPES = (
    (2, 17, 23, 31),
    (1, 64, 90, 117),
    (1, 64, 96, 112),  # a multiple of 16 positions and channels: what matrix units take
    (2, 48, 20, 20),
    (5, 3, 9),
    (1, 130, 6, 6),
    (1, 48, 5, 6, 7),
    (1, 512, 40, 41),
)
SMALL_SHAPES = ((1, 17, 4, 31), (1, 48, 4, 16), (4, 3, 9))
SMALL_VARIANTS = ("rank 11", "all")
LIMITS = {"float32": 2e-5, "float16": 2e-3, "bfloat16": 2e-2}
"""Of the largest value: float sums of other order, and what rounding to 16 bits costs."""
GRAM_LIMIT = 1e-5
NAME = "kernels"


def check(context: Context) -> Iterator[CheckResult]:
    """Compare for every type that NumPy has here."""
    shapes = SMALL_SHAPES if context.small else SHAPES
    for name, limit in LIMITS.items():
        dtype = _type(name)
        if dtype is None:
            yield CheckResult(NAME, f"the op, {name}", "skipped", "ml_dtypes is not installed, which brings this type")
            continue
        errors, undone = [], []
        for shape in shapes:
            maps = feature_maps(shape, dtype)
            for variant in SMALL_VARIANTS if context.small else VARIANTS:
                attributes = PlainAttributes(**VARIANTS[variant])
                found, change = context.library.perturb(maps, attributes)
                errors.append(worst(found, svd_perturb(maps, attributes), shape))
                assert change is not None
                undone.append(_distance(context.library.restore(found, change), maps, found))
        yield compared(NAME, f"the op, {name}", float(max(errors)), limit)
        yield compared(NAME, f"SvdRestore of it, {name}", float(max(undone)), 2e-6 if name == "float32" else 0.0)
    yield from _grams(context, shapes)
    yield _same_bits(context, shapes[0])


def _type(name: str) -> Any:
    if name != "bfloat16":
        return np.dtype(name)
    try:
        import ml_dtypes
    except ImportError:
        return None
    return ml_dtypes.bfloat16


def _distance(restored: Any, maps: Any, found: Any) -> float:
    """Relative to the largest value that was subtracted from."""
    far = np.abs(restored.astype(np.float64) - maps.astype(np.float64)).max()
    return float(far / np.abs(found.astype(np.float64)).max())


def _grams(context: Context, shapes: tuple[tuple[int, ...], ...]) -> Iterator[CheckResult]:
    for centred in (False, True):
        errors = []
        for shape, name in itertools.product(shapes, LIMITS):
            if (dtype := _type(name)) is None:
                continue
            maps = (feature_maps(shape) + np.float32(3)).astype(dtype)
            for stride in (1, 2):
                attributes = PlainAttributes(centred=centred, stride=stride)
                expected = exact_gram(maps, attributes)
                scale = max(float(np.abs(expected).max()), 1e-30)
                errors.append(float(np.abs(context.library.gram(maps, attributes) - expected).max()) / scale)
        yield compared(NAME, f"Gram matrices, {'centred' if centred else 'plain'}", max(errors), GRAM_LIMIT)


def _same_bits(context: Context, shape: tuple[int, ...]) -> CheckResult:
    """Twice the same, and every image as if it were alone."""
    attributes = PlainAttributes(**VARIANTS["all"])
    maps = np.concatenate([feature_maps(shape, seed=seed) for seed in range(2)])
    first, again = (context.library.perturb(maps, attributes)[0] for _ in range(2))
    alone = np.concatenate([context.library.perturb(image[None], attributes)[0] for image in maps])
    same = np.array_equal(first, again) and np.array_equal(first, alone)
    return compared(NAME, "the same bits again, and in a batch", 0.0 if same else 1.0, 0.0)
