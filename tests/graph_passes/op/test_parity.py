"""The function against the NumPy reference, over shapes, spectra, types, opsets and every attribute.

Where two singular values nearly coincide the vectors themselves are ill defined, so neighbours are
at least 2 % apart here. fp32 Gram matrices resolve singular values down to about 3e-4 of the
largest; the spectra stay above 3e-3. Positions whose tail-driven sign is within rounding of flipping
are left out, and must be few.
"""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kdguard.graph_passes.op import SvdPerturbAttributes, reference
from kdguard.graph_passes.op.conventions import Modulation
from tests.graph_passes.op.op_models import bfloat16, map_with_spectrum, relative_error, run_op

TOLERANCE = {np.dtype(np.float32): 2e-5, np.dtype(np.float16): 2e-3, bfloat16: 1.6e-2}
"""Relative to the largest value. 16-bit types round the output to 11 and 8 bits: 4.9e-4 and 3.9e-3."""
DOUBT = 3e-5
"""Keyed projections differ by rounding, like everything else; see `Perturbed.doubt`."""
KEY = tuple(np.random.default_rng(11).standard_normal(37))
EXPONENTS = (1.0, -0.5, 0.3, -1.0, 0.8)

ALONE = {
    "plain": {},
    "centred": {"centred": True},
    "adaptive": {"adaptive": 0.7},
    "pattern": {"modulation": Modulation.PATTERN, "pattern": EXPONENTS},
    "tail sign": {"modulation": Modulation.TAIL_SIGN, "pattern": KEY},
    "coherence": {"coherence": 0.6},
    "stride": {"stride": 3},
    "all with pattern": {
        "centred": True,
        "adaptive": 1.0,
        "modulation": Modulation.PATTERN,
        "pattern": EXPONENTS,
        "coherence": 1.5,
        "stride": 2,
    },
    "all with tail sign": {
        "centred": True,
        "adaptive": 0.5,
        "modulation": Modulation.TAIL_SIGN,
        "pattern": KEY,
        "coherence": 2.0,
        "stride": 2,
    },
}


@st.composite
def attribute_sets(draw: st.DrawFn) -> SvdPerturbAttributes:
    """Every attribute on or off, independently."""
    modulation = draw(st.sampled_from(Modulation))
    exponents = st.lists(st.floats(-1, 1, width=32), min_size=1, max_size=9).filter(any)
    weights = st.integers(1, 200).map(lambda size: np.random.default_rng(size).standard_normal(size).tolist())
    gains = [1.0, 3.0, 10.0, 100.0] if modulation else [0.5, 1.0, 3.0, 10.0, 100.0]
    return SvdPerturbAttributes(
        rank=draw(st.integers(1, 4 if modulation == Modulation.TAIL_SIGN else 8)),
        gain=draw(st.sampled_from(gains)),
        centred=draw(st.booleans()),
        adaptive=draw(st.sampled_from([0.0, 0.3, 1.0])),
        modulation=modulation,
        pattern=draw(exponents if modulation == Modulation.PATTERN else weights),
        coherence=draw(st.sampled_from([0.0, 0.2, 1.0, 5.0])),
        stride=draw(st.sampled_from([1, 1, 2, 3])),
    )


@st.composite
def cases(draw: st.DrawFn) -> tuple[np.ndarray, SvdPerturbAttributes]:
    """A map and attributes for it. Where the tail decides signs there is a tail, not below a tenth."""
    attributes = draw(attribute_sets())
    by_tail = attributes.modulation == Modulation.TAIL_SIGN
    channels = draw(st.integers(12 if by_tail else 1, 128))
    small = [] if by_tail else [(9,), (7, 5), (3, 4, 5)]
    spatial = draw(st.sampled_from([*small, (150,), (12, 13), (5, 6, 7)]))
    seen = -(-spatial[0] // attributes.stride) * int(np.prod(spatial[1:]))
    length = min(channels, seen - attributes.centred)
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    # Log-uniform factors between neighbours: never closer than 2 %, never below 3e-3 in all.
    floor = 2.3 if by_tail else 5.8
    decay = rng.uniform(0.02, max(0.021, min(0.5, floor / max(length - 1, 1))), length)
    singular_values = np.exp(-np.minimum(np.cumsum(decay) - decay[0], 5.8))
    if length > attributes.rank:
        singular_values[attributes.rank :] *= 0.98
    values = map_with_spectrum(
        rng,
        channels,
        spatial,
        singular_values,
        batch=draw(st.integers(1, 3)),
        stride=attributes.stride,
        centred=attributes.centred,
    )
    return values * draw(st.sampled_from([1e-3, 1.0, 30.0])), attributes


def assert_parity(
    X: np.ndarray, attributes: SvdPerturbAttributes, *, opset: int = 18, strength: float | None = None
) -> None:
    """Perturbed as the reference says, wherever it is sure of its signs; at least 98 % of the positions."""
    Y, _ = run_op(attributes, X, opset=opset, strength=strength)
    expected = reference.svd_perturb(X, attributes, 1.0 if strength is None else strength)
    sure = expected.doubt > DOUBT
    assert np.mean(~sure) < 0.02
    scale = np.abs(expected.Y.astype(np.float64)).max()
    error = np.abs(Y.astype(np.float64) - expected.Y.astype(np.float64)).reshape(*X.shape[:2], -1) / scale
    if X.dtype.itemsize == 2:
        # An element on the edge of being undone exactly may be left alone on one side only.
        one_sided = ((Y == X) != (expected.Y == X)).reshape(error.shape)
        assert np.mean(one_sided) < 2e-3
        error[one_sided] = 0
    assert (error.max(axis=1)[sure]).max() < TOLERANCE[X.dtype]


@settings(max_examples=80, deadline=None, derandomize=True)
@given(cases())
def test_fp32(case: tuple[np.ndarray, SvdPerturbAttributes]) -> None:
    values, attributes = case
    assert_parity(values.astype(np.float32), attributes)


@pytest.mark.parametrize("dtype", [np.dtype(np.float16), bfloat16], ids=str)
@settings(max_examples=25, deadline=None, derandomize=True)
@given(case=cases())
def test_sixteen_bits(dtype: np.dtype, case: tuple[np.ndarray, SvdPerturbAttributes]) -> None:
    values, attributes = case
    # 600 x gain 100 stays below fp16's 65504.
    assert_parity(np.clip(values, -600, 600).astype(dtype), attributes)


@pytest.mark.parametrize("opset", [15, 16, 17, 18, 19, 20, 21, 22, 23])
@pytest.mark.parametrize("name", ALONE)
def test_every_opset_and_every_attribute(opset: int, name: str) -> None:
    attributes = SvdPerturbAttributes(rank=3, gain=8.0, **ALONE[name])
    values = map_with_spectrum(
        np.random.default_rng(5),
        24,
        (10, 11),
        np.geomspace(1, 0.05, 24),
        batch=2,
        stride=attributes.stride,
        centred=attributes.centred,
    )
    for dtype in (np.float32, np.float16):
        assert_parity(values.astype(dtype), attributes, opset=opset)


@pytest.mark.parametrize("name", [name for name in ALONE if name != "plain"])
def test_every_attribute_changes_the_result(name: str) -> None:
    X = (np.random.default_rng(1).standard_normal((1, 16, 9, 9)) + 1).astype(np.float32)
    plain, other = (
        run_op(SvdPerturbAttributes(rank=2, gain=5.0, **extra), X)[0] for extra in (ALONE["plain"], ALONE[name])
    )
    assert relative_error(other, plain) > 0.05


@pytest.mark.parametrize("strength", [0.0, 0.3, 1.0, 1.7, -2.0])
@pytest.mark.parametrize("name", ALONE)
def test_strength_is_clipped_and_scales_the_perturbation(strength: float, name: str) -> None:
    attributes = SvdPerturbAttributes(rank=2, gain=6.0, **ALONE[name])
    values = map_with_spectrum(
        np.random.default_rng(2),
        12,
        (8, 16),
        np.geomspace(1, 0.1, 12),
        stride=attributes.stride,
        centred=attributes.centred,
    )
    X = values.astype(np.float32)
    assert_parity(X, attributes, strength=strength)
    if strength <= 0:
        np.testing.assert_array_equal(run_op(attributes, X, strength=strength)[0], X)


@pytest.mark.parametrize("gap", [1e-3, 5e-4, 2.5e-4])
def test_close_singular_values_are_told_apart(gap: float) -> None:
    """Eleven squarings are too few for the first, twelve for the second and thirteen for the third.

    With fourteen, what is left is the rounding of the Gram matrix.
    """
    values = map_with_spectrum(
        np.random.default_rng(7), 12, (9, 9), np.array([1.0, 1 - gap, *np.geomspace(0.5, 0.1, 10)])
    )
    X = values.astype(np.float32)
    attributes = SvdPerturbAttributes(rank=1, gain=10.0)
    assert relative_error(run_op(attributes, X)[0], reference.svd_perturb(X, attributes).Y) < 5e-4


@pytest.mark.parametrize("name", ALONE)
def test_batch_order_does_not_matter_and_repeats_are_equal(name: str) -> None:
    X = np.random.default_rng(3).standard_normal((4, 16, 9, 7)).astype(np.float32)
    attributes = SvdPerturbAttributes(rank=3, gain=10.0, **ALONE[name])
    Y, Z = run_op(attributes, X)
    for again, first in zip(run_op(attributes, X), (Y, Z), strict=True):
        np.testing.assert_array_equal(again, first)
    assert relative_error(run_op(attributes, X[::-1].copy())[0][::-1], Y) < 1e-6
    assert relative_error(run_op(attributes, X[1:2])[0], Y[1:2]) < 1e-6
