"""What `SvdRestore` gives back: every bit in 16-bit types, all but rounding in fp32."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kdguard.graph_passes.op import SvdPerturbAttributes, reference
from tests.graph_passes.op.op_models import bfloat16, relative_error, run_op
from tests.graph_passes.op.test_parity import ALONE, attribute_sets

FP32_ROUNDING = 3 * 2.0**-24
"""The change, its addition and its subtraction round once each, at values as large as the largest."""


@st.composite
def rough_maps(draw: st.DrawFn) -> np.ndarray:
    """Maps with zeros, as behind a ReLU, and values many orders apart, which 16 bits round hardest."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    shape = (draw(st.integers(1, 2)), draw(st.integers(1, 110)), *draw(st.sampled_from([(5,), (9, 7), (3, 4, 5)])))
    values = rng.standard_normal(shape) * 10 ** rng.uniform(-draw(st.integers(0, 6)), 0, shape)
    if draw(st.booleans()):
        values = np.maximum(values, 0)
    return values * draw(st.sampled_from([1e-4, 1.0, 3e4]))


@pytest.mark.parametrize("dtype", [np.dtype(np.float16), bfloat16], ids=str)
@settings(max_examples=40, deadline=None, derandomize=True)
@given(values=rough_maps(), attributes=attribute_sets())
def test_sixteen_bits_come_back_bit_for_bit(
    dtype: np.dtype, values: np.ndarray, attributes: SvdPerturbAttributes
) -> None:
    """Also where the gain does not fit the type: such elements stay as they are, so nothing overflows."""
    X = np.clip(values, -6e4, 6e4).astype(dtype)
    Y, Z = run_op(attributes, X)
    assert np.isfinite(Y.astype(np.float32)).all()
    np.testing.assert_array_equal(Z.astype(np.float32), X.astype(np.float32))


@pytest.mark.parametrize("name", ALONE)
@pytest.mark.parametrize("gain", [10.0, 100.0])
def test_fp16_moves_and_comes_back(name: str, gain: float) -> None:
    """Exactness is not bought by leaving the map alone: fewer than 1 % of the elements are unchanged."""
    X = np.random.default_rng(3).standard_normal((2, 24, 32, 32)).astype(np.float16)
    attributes = SvdPerturbAttributes(rank=4, gain=gain, **ALONE[name])
    Y, Z = run_op(attributes, X)
    np.testing.assert_array_equal(Z, X)
    assert np.mean(Y == X) < 0.01
    assert np.linalg.norm((Y - X).astype(np.float32)) > 0.3 * np.linalg.norm(X.astype(np.float32))


@pytest.mark.parametrize("gain", [10.0, 100.0])
def test_without_the_exact_change_fp16_is_not_exact(gain: float) -> None:
    """Which is why the insertion pass asks for it wherever a layer has 16 bits."""
    X = np.random.default_rng(3).standard_normal((1, 24, 32, 32)).astype(np.float16)
    _, Z = run_op(SvdPerturbAttributes(rank=4, gain=gain), X, exact_change=False)
    assert np.mean(Z != X) > 0.1


@settings(max_examples=60, deadline=None, derandomize=True)
@given(values=rough_maps(), attributes=attribute_sets())
def test_fp32_comes_back_to_rounding(values: np.ndarray, attributes: SvdPerturbAttributes) -> None:
    X = values.astype(np.float32)
    Y, Z = run_op(attributes, X)
    assert np.abs(Z - X).max() <= FP32_ROUNDING * max(np.abs(Y).max(), np.abs(X).max())


@pytest.mark.parametrize("name", ALONE)
def test_exactness_does_not_depend_on_singular_vectors(name: str) -> None:
    """Two equal singular values leave the vectors undefined; the change is handed over, so no matter."""
    rng = np.random.default_rng(9)
    left, _ = np.linalg.qr(rng.standard_normal((12, 6)))
    right, _ = np.linalg.qr(rng.standard_normal((64, 6)))
    X = (8 * left @ right.T).reshape(1, 12, 8, 8)
    attributes = SvdPerturbAttributes(rank=2, gain=100.0, **ALONE[name])
    Y, Z = run_op(attributes, X.astype(np.float32))
    assert relative_error(Z, X) <= FP32_ROUNDING * max(np.abs(Y).max() / np.abs(X).max(), 1)
    np.testing.assert_array_equal(run_op(attributes, X.astype(np.float16))[1], X.astype(np.float16))


@pytest.mark.parametrize("name", ALONE)
def test_the_reference_restores_what_it_perturbs(name: str) -> None:
    X = np.random.default_rng(4).standard_normal((2, 9, 6, 6))
    for dtype in (np.float16, np.float32):
        result = reference.svd_perturb(X.astype(dtype), SvdPerturbAttributes(rank=2, gain=100.0, **ALONE[name]))
        np.testing.assert_array_equal(reference.svd_restore(result.Y, result.change), X.astype(dtype))
