"""Every map has an answer: no energy, no tail, ties, NaN, infinities, the ends of the number range."""

from __future__ import annotations

import numpy as np
import pytest

from kdguard.graph_passes.op import SvdPerturbAttributes, reference
from kdguard.graph_passes.op.conventions import Modulation
from tests.graph_passes.op.op_models import bfloat16, map_with_spectrum, relative_error, run_op
from tests.graph_passes.op.test_parity import ALONE

TOLERANCE = 2e-5

DEGENERATE = {
    "zeros": np.zeros((2, 6, 5, 5)),
    "constant": np.full((2, 6, 5, 5), 3.0),
    "one pixel": np.random.default_rng(0).standard_normal((2, 6, 1, 1)),
    "rank one": np.einsum("c,hw->chw", np.arange(1.0, 7), np.random.default_rng(1).standard_normal((5, 5)))[None],
    "one channel": np.random.default_rng(2).standard_normal((2, 1, 5, 5)),
    "two equal singular values": map_with_spectrum(
        np.random.default_rng(4), 6, (5, 5), np.array([1.0, 1.0, 0.2, 0.2, 0.02])
    ),
    "tiny": 1e-12 * np.random.default_rng(3).standard_normal((1, 6, 5, 5)),
    "huge": 1e15 * np.random.default_rng(3).standard_normal((1, 6, 5, 5)),
}


@pytest.mark.parametrize("map_name", DEGENERATE)
@pytest.mark.parametrize("centred", [False, True])
@pytest.mark.parametrize("name", [name for name in ALONE if not name.startswith("all") and name != "centred"])
def test_degenerate_maps(map_name: str, centred: bool, name: str) -> None:
    """Rank 4 exceeds the channels of "one channel" and the singular values of most others.

    What a tail of nothing but rounding says about signs is anybody's guess, and so are the single
    vectors of equal singular values: there the size of what is amplified is compared, which no sign
    and no rotation changes.
    """
    X = DEGENERATE[map_name].astype(np.float32)
    attributes = SvdPerturbAttributes(rank=4, gain=5.0, centred=centred, **ALONE[name])
    Y, Z = run_op(attributes, X)
    assert np.isfinite(Y).all()
    assert np.abs(Z - X).max() <= 2e-7 * max(np.abs(Y).max(), np.abs(X).max())
    expected = reference.svd_perturb(X, attributes)
    if attributes.modulation != Modulation.TAIL_SIGN:
        assert relative_error(Y, expected.Y) < TOLERANCE
        return
    batch, channels = X.shape[:2]
    flat = X.reshape(batch, channels, -1).astype(np.float64)
    mean = flat.mean(axis=2, keepdims=True) * centred
    moved = Y.reshape(flat.shape) - mean
    U_t = expected.U.transpose(0, 2, 1)
    size, clean_size = (np.linalg.norm(U_t @ values, axis=1) for values in (moved, flat - mean))
    assert relative_error(size, 5 * clean_size) < TOLERANCE
    tail, clean_tail = (values - expected.U @ (U_t @ values) for values in (moved, flat - mean))
    assert np.abs(tail - clean_tail).max() <= TOLERANCE * np.abs(moved).max()


@pytest.mark.parametrize("channels", [2, 64, 256])
def test_every_singular_value_equal(channels: int) -> None:
    """Any two orthonormal vectors will do. Repeated squaring comes closest to underflow here."""
    rows = np.linalg.qr(np.random.default_rng(5).standard_normal((400, channels)))[0].T
    X = rows.reshape(1, channels, 20, 20).astype(np.float32)
    Y, _ = run_op(SvdPerturbAttributes(rank=2, gain=5.0), X)
    values = np.linalg.svd(Y.reshape(channels, -1), compute_uv=False)
    np.testing.assert_allclose(values, [5.0] * 2 + [1.0] * (channels - 2), rtol=1e-4)


@pytest.mark.parametrize("channels", [256, 512, 1024])
@pytest.mark.parametrize("kind", ["flat", "aligned", "nearly flat"])
def test_wide_flat_maps_do_not_overflow(kind: str, channels: int) -> None:
    """The largest eigenvalue of a flat Gram matrix is as many times its entries as there are channels."""
    rng = np.random.default_rng(6)
    rows = {
        "flat": np.ones((channels, 1)) * rng.uniform(0.5, 1, 64),
        "aligned": np.sign(np.cos(2.4 * np.arange(channels)))[:, None] * rng.uniform(0.5, 1, 64),
        "nearly flat": 0.5 + 0.05 * rng.standard_normal((channels, 64)),
    }[kind]
    X = rows.reshape(1, channels, 8, 8).astype(np.float32)
    attributes = SvdPerturbAttributes(rank=1, gain=5.0)
    assert relative_error(run_op(attributes, X)[0], reference.svd_perturb(X, attributes).Y) < TOLERANCE


@pytest.mark.parametrize("name", ALONE)
@pytest.mark.parametrize("dtype", [np.dtype(np.float16), bfloat16], ids=str)
def test_sixteen_bits_at_their_maximum(dtype: np.dtype, name: str) -> None:
    """No gain fits: such elements stay, instead of becoming infinite for good."""
    largest = 65504.0 if dtype == np.float16 else 1e15
    X = (largest * np.random.default_rng(1).choice([1.0, 1.0, -1.0, 0.01], (1, 4, 6, 6))).astype(dtype)
    Y, Z = (values.astype(np.float32) for values in run_op(SvdPerturbAttributes(rank=2, gain=5.0, **ALONE[name]), X))
    assert np.isfinite(Y).all()
    np.testing.assert_array_equal(Z, X.astype(np.float32))


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 1e30])
@pytest.mark.parametrize("row", [0, 1])
@pytest.mark.parametrize("name", ALONE)
@pytest.mark.parametrize("channels", [5, 100])
def test_bad_values_do_not_spread(value: float, row: int, name: str, channels: int) -> None:
    """NaN only where the input had NaN, perturbed and restored; row 1 is one that strides do not see.

    100 channels are too many for the dense product, 5 are not.
    """
    X = np.random.default_rng(6).standard_normal((2, channels, 4, 16)).astype(np.float32)
    X[0, 2, row, 1] = value
    attributes = SvdPerturbAttributes(rank=2, gain=7.0, **ALONE[name])
    Y, Z = run_op(attributes, X)
    for result in (Y, Z):
        np.testing.assert_array_equal(np.isnan(result), np.isnan(X))
    ordinary = np.abs(X) < 1e3
    assert np.isfinite(Y[ordinary]).all()
    if value != 1e30 or attributes.stride == 1:  # a row that is not seen is amplified, whatever it holds
        assert np.abs(Z[ordinary] - X[ordinary]).max() < 4e-6
    # The other image of the batch is perturbed as if it were alone.
    assert relative_error(Y[1:], run_op(attributes, X[1:])[0]) < 1e-6


@pytest.mark.parametrize("value", [np.nan, np.inf])
@pytest.mark.parametrize("name", ALONE)
def test_bad_values_in_half_precision(value: float, name: str) -> None:
    X = np.random.default_rng(6).standard_normal((2, 5, 4, 4)).astype(np.float16)
    X[0, 2, 1, 1] = value
    Y, Z = run_op(SvdPerturbAttributes(rank=2, gain=7.0, **ALONE[name]), X)
    np.testing.assert_array_equal(np.isnan(Y), np.isnan(X))
    np.testing.assert_array_equal(Z, X)


def test_infinities_switch_the_perturbation_off() -> None:
    """Their image alone; where only a row that strides skip has them, their position alone."""
    X = np.random.default_rng(6).standard_normal((2, 5, 4, 4)).astype(np.float32)
    X[0, 2, 1, 1] = np.inf
    Y, _ = run_op(SvdPerturbAttributes(rank=2, gain=7.0), X)
    np.testing.assert_array_equal(Y[0], X[0])
    assert relative_error(Y[1], X[1]) > 0.5
    Y, _ = run_op(SvdPerturbAttributes(rank=2, gain=7.0, stride=2), X)
    np.testing.assert_array_equal(Y[0, :, 1, 1], X[0, :, 1, 1])
    assert relative_error(Y[0, :, 0], X[0, :, 0]) > 0.5
