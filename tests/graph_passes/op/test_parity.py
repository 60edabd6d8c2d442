"""The function against the NumPy reference, over shapes, spectra, types and degenerate inputs.

Where two singular values nearly coincide the subspace itself is ill defined, so the gap between the
k-th and the next one is controlled: at least 2 % here. fp32 Gram matrices resolve singular values
down to about 3e-4 of the largest; the spectra stay above 3e-3.
"""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper

from kdguard.graph_passes.op import SvdPerturbAttributes, reference
from tests.conftest import run_onnx
from tests.graph_passes.op.op_models import map_with_spectrum, op_model

FP32_TOLERANCE = 2e-5
FP16_TOLERANCE = 2e-3
"""Half precision rounds the output to 11 bits: 4.9e-4 of each value."""

TYPES = {np.float32: TensorProto.FLOAT, np.float16: TensorProto.FLOAT16}


def relative_error(actual: np.ndarray, expected: np.ndarray) -> float:
    """Largest difference relative to the largest expected value."""
    scale = float(np.abs(expected.astype(np.float64)).max())
    return float(np.abs(actual.astype(np.float64) - expected.astype(np.float64)).max()) / max(scale, 1e-30)


@st.composite
def controlled_maps(draw: st.DrawFn) -> tuple[np.ndarray, SvdPerturbAttributes]:
    channels = draw(st.integers(1, 128))
    k = draw(st.integers(1, 8))
    spatial = draw(st.sampled_from([(9,), (150,), (7, 5), (12, 13), (3, 4, 5), (5, 6, 7)]))
    length = min(channels, int(np.prod(spatial)))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    # Log-uniform factors between neighbours: never closer than 2 %, never below 3e-3 in all.
    decay = rng.uniform(0.02, max(0.021, min(0.5, 5.8 / max(length - 1, 1))), length)
    singular_values = np.exp(-np.minimum(np.cumsum(decay) - decay[0], 5.8))
    if length > k:
        singular_values[k:] *= 0.98
    maps = map_with_spectrum(rng, channels, spatial, singular_values, batch=draw(st.integers(1, 3)))
    scale = draw(st.sampled_from([1e-3, 1.0, 30.0]))
    gain = draw(st.sampled_from([0.5, 1.0, 3.0, 10.0, 100.0]))
    return maps * scale, SvdPerturbAttributes(rank=k, gain=gain)


@settings(max_examples=60, deadline=None, derandomize=True)
@given(controlled_maps())
def test_fp32_matches_reference_and_restores(case: tuple[np.ndarray, SvdPerturbAttributes]) -> None:
    values, attributes = case
    X = values.astype(np.float32)
    Y, Z = run_onnx(op_model(attributes, rank=X.ndim), X=X)
    expected = reference.svd_perturb(X, attributes)
    assert relative_error(Y, expected.Y) < FP32_TOLERANCE
    # The restored map differs by what fp32 rounds off values that are gain times larger.
    assert relative_error(Z, X) < 4e-7 * max(attributes.gain, 1 / attributes.gain) + FP32_TOLERANCE / 10


@settings(max_examples=25, deadline=None, derandomize=True)
@given(controlled_maps())
def test_fp16_matches_reference(case: tuple[np.ndarray, SvdPerturbAttributes]) -> None:
    values, attributes = case
    X = np.clip(values, -600, 600).astype(np.float16)  # 600 x gain 100 stays below fp16's 65504
    (Y, _) = run_onnx(op_model(attributes, rank=X.ndim, dtype=TensorProto.FLOAT16), X=X)
    assert Y.dtype == np.float16
    assert relative_error(Y, reference.svd_perturb(X, attributes).Y) < FP16_TOLERANCE


@pytest.mark.parametrize("opset", [15, 17, 18, 19, 20, 21, 22, 23])
@pytest.mark.parametrize("centred", [False, True])
def test_every_opset_and_both_centrings(opset: int, centred: bool) -> None:
    rng = np.random.default_rng(5)
    values = map_with_spectrum(rng, 24, (10, 11), np.geomspace(1, 0.05, 24), batch=2)
    X = (values + rng.uniform(0.5, 2, (1, 24, 1, 1))).astype(np.float32)
    attributes = SvdPerturbAttributes(rank=3, gain=8.0, centred=centred)
    Y, Z = run_onnx(op_model(attributes, opset=opset), X=X)
    assert relative_error(Y, reference.svd_perturb(X, attributes).Y) < FP32_TOLERANCE
    assert relative_error(Z, X) < FP32_TOLERANCE


def test_centring_changes_the_result() -> None:
    X = (np.random.default_rng(1).standard_normal((1, 8, 9, 9)) + 3).astype(np.float32)
    plain, centred = (
        run_onnx(op_model(SvdPerturbAttributes(rank=2, gain=5.0, centred=c)), X=X)[0] for c in (False, True)
    )
    assert relative_error(centred, plain) > 0.1


@pytest.mark.parametrize("strength", [0.0, 0.3, 1.0, 1.7, -2.0])
def test_strength_is_clipped_and_scales_the_perturbation(strength: float) -> None:
    X = np.random.default_rng(2).standard_normal((2, 12, 8, 8)).astype(np.float32)
    attributes = SvdPerturbAttributes(rank=2, gain=6.0)
    Y, Z = run_onnx(op_model(attributes, strength=strength), X=X)
    assert relative_error(Y, reference.svd_perturb(X, attributes, strength).Y) < FP32_TOLERANCE
    assert relative_error(Z, X) < FP32_TOLERANCE
    if strength <= 0:
        np.testing.assert_array_equal(Y, X)


def test_close_singular_values_are_told_apart() -> None:
    """A gap of 0.2 % needs the fifteen squarings; what is left is the rounding of the Gram matrix."""
    values = map_with_spectrum(
        np.random.default_rng(7), 12, (9, 9), np.array([1.0, 0.998, *np.geomspace(0.5, 0.1, 10)])
    )
    X = values.astype(np.float32)
    attributes = SvdPerturbAttributes(rank=1, gain=10.0)
    (Y, _) = run_onnx(op_model(attributes), X=X)
    assert relative_error(Y, reference.svd_perturb(X, attributes).Y) < 5e-4


def test_batch_order_does_not_matter_and_repeats_are_equal() -> None:
    X = np.random.default_rng(3).standard_normal((4, 16, 9, 7)).astype(np.float32)
    model = op_model(SvdPerturbAttributes(rank=4, gain=10.0))
    Y = run_onnx(model, X=X)[0]
    np.testing.assert_array_equal(run_onnx(model, X=X)[0], Y)
    assert relative_error(run_onnx(model, X=X[::-1].copy())[0][::-1], Y) < 1e-6


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


@pytest.mark.parametrize("name", DEGENERATE)
@pytest.mark.parametrize("centred", [False, True])
def test_degenerate_maps(name: str, centred: bool) -> None:
    X = DEGENERATE[name].astype(np.float32)
    # Rank 4 exceeds the channels of "one channel" and the singular values of most others.
    attributes = SvdPerturbAttributes(rank=4, gain=5.0, centred=centred)
    Y, Z = run_onnx(op_model(attributes), X=X)
    assert np.isfinite(Y).all()
    assert relative_error(Y, reference.svd_perturb(X, attributes).Y) < FP32_TOLERANCE
    assert relative_error(Z, X) < FP32_TOLERANCE


def test_fp16_at_its_maximum_overflows_to_infinity_not_nan() -> None:
    X = np.full((1, 4, 6, 6), np.finfo(np.float16).max, np.float16)
    Y, Z = run_onnx(op_model(SvdPerturbAttributes(rank=2, gain=5.0), dtype=TensorProto.FLOAT16), X=X)
    assert not np.isnan(Y).any()
    assert not np.isnan(Z).any()
    (kept, _) = run_onnx(op_model(SvdPerturbAttributes(rank=2, gain=1.0), dtype=TensorProto.FLOAT16), X=X)
    np.testing.assert_array_equal(kept, X)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 1e30])
def test_bad_values_do_not_spread(value: float) -> None:
    """NaN only where the input had NaN; infinities and overflowing Gram matrices switch the op off."""
    X = np.random.default_rng(6).standard_normal((2, 5, 4, 4)).astype(np.float32)
    X[0, 2, 1, 1] = value
    Y, Z = run_onnx(op_model(SvdPerturbAttributes(rank=2, gain=7.0)), X=X)
    for result in (Y, Z):
        np.testing.assert_array_equal(np.isnan(result), np.isnan(X))
    # The other image of the batch is perturbed as if it were alone.
    alone = run_onnx(op_model(SvdPerturbAttributes(rank=2, gain=7.0)), X=X[1:])[0]
    assert relative_error(Y[1:], alone) < 1e-6


def test_bfloat16_matches_reference() -> None:
    """onnxruntime's Python bindings take no bfloat16 arrays, so casts stand around the op."""
    attributes = SvdPerturbAttributes(rank=2, gain=4.0)
    model = op_model(attributes, dtype=TensorProto.BFLOAT16)
    for value in (*model.graph.input, *model.graph.output):
        value.type.tensor_type.elem_type = TensorProto.FLOAT
    perturb, restore = model.graph.node
    perturb.input[0], perturb.output[0], restore.input[0], restore.output[0] = "Xb", "Yb", "Yb", "Zb"
    before = helper.make_node("Cast", ["X"], ["Xb"], to=TensorProto.BFLOAT16)
    after = [helper.make_node("Cast", [f"{n}b"], [n], to=TensorProto.FLOAT) for n in ("Y", "Z")]
    del model.graph.node[:]
    model.graph.node.extend([before, perturb, restore, *after])
    X = np.random.default_rng(8).standard_normal((1, 6, 8, 8)).astype(np.float32)
    Y, _ = run_onnx(model, X=X)
    # bfloat16 keeps 8 bits, at input and output: 2 x 3.9e-3.
    assert relative_error(Y, reference.svd_perturb(X, attributes).Y) < 8e-3
