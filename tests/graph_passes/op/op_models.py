"""One-node models around the op, maps to feed them, and how far two results are apart."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import onnx
from onnx import TensorProto, numpy_helper

from kdguard.graph_passes.op import SvdPerturbAttributes, op_functions
from kdguard.graph_passes.op.one_op import one_op_model
from kdguard.runtime.float_edges import with_float_edges
from tests.conftest import run_onnx

bfloat16 = np.dtype(ml_dtypes.bfloat16)
TYPES = {
    np.dtype(np.float32): TensorProto.FLOAT,
    np.dtype(np.float16): TensorProto.FLOAT16,
    bfloat16: TensorProto.BFLOAT16,
}


def op_model(
    attributes: SvdPerturbAttributes,
    *,
    rank: int = 4,
    dtype: int = TensorProto.FLOAT,
    opset: int = 18,
    strength: float | None = None,
    exact_change: bool | None = None,
) -> onnx.ModelProto:
    """X -> SvdPerturb -> Y, then SvdRestore -> Z; strength left out unless given.

    The change is exact for 16-bit types unless told otherwise. bfloat16 models read and write float,
    because onnxruntime's Python bindings take no bfloat16 arrays.
    """
    functions = None if exact_change is None else op_functions(opset, exact_change=exact_change)
    model = one_op_model(
        attributes,
        rank=rank,
        dtype=dtype,
        restored=True,
        strength=strength is not None,
        opset=opset,
        functions=functions,
    )
    if strength is not None:
        model.graph.input.pop()
        model.graph.initializer.append(numpy_helper.from_array(np.array(strength, np.float32), "strength"))
    return with_float_edges(model)


def run_op(
    attributes: SvdPerturbAttributes,
    X: np.ndarray,
    *,
    opset: int = 18,
    strength: float | None = None,
    exact_change: bool | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """The perturbed and the restored map, in X's type."""
    dtype = TYPES[X.dtype]
    model = op_model(attributes, rank=X.ndim, dtype=dtype, opset=opset, strength=strength, exact_change=exact_change)
    Y, Z = run_onnx(model, X=X.astype(np.float32) if X.dtype == bfloat16 else X)
    return Y.astype(X.dtype), Z.astype(X.dtype)


def map_with_spectrum(
    rng: np.random.Generator,
    channels: int,
    positions: tuple[int, ...],
    singular_values: np.ndarray,
    *,
    batch: int = 1,
    stride: int = 1,
    centred: bool = False,
) -> np.ndarray:
    """[batch, channels, *positions] float64 maps with exactly these singular values, up to one factor.

    Args:
        stride: the values are those of every stride-th row; the other rows are random mixtures.
        centred: they are those of the map less its mean, and the mean is not zero.
    """
    rows = np.arange(positions[0])[:, None] % stride == 0
    seen = np.broadcast_to(rows, (positions[0], int(np.prod(positions[1:])))).ravel()
    count, length = int(seen.sum()), len(singular_values)
    maps = []
    for _ in range(batch):
        left, _ = np.linalg.qr(rng.standard_normal((channels, length)))
        sampled = rng.standard_normal((count, length))
        right = rng.standard_normal((len(seen), length)) / np.sqrt(count)
        right[seen], _ = np.linalg.qr(sampled - sampled.mean(axis=0) * centred)
        mean = rng.uniform(0.5, 2, (channels, 1)) * centred
        maps.append((np.sqrt(count) * (left * singular_values) @ right.T + mean).reshape(channels, *positions))
    return np.stack(maps)


def relative_error(actual: np.ndarray, expected: np.ndarray) -> float:
    """Largest difference relative to the largest expected value."""
    scale = float(np.abs(expected.astype(np.float64)).max())
    return float(np.abs(actual.astype(np.float64) - expected.astype(np.float64)).max(initial=0)) / max(scale, 1e-30)
