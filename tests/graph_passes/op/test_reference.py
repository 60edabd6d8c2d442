"""The NumPy reference against values worked out by hand."""

from __future__ import annotations

import numpy as np
import pytest

from kdguard.graph_passes.op import SvdPerturbAttributes, reference
from kdguard.graph_passes.op.conventions import Modulation

DIAGONAL = np.diag([4.0, 2.0, 1.0, 0.5])[None]
"""[1, 4, 4]: its singular vectors are the axes, so each channel is one component at one position."""


def moved(X: np.ndarray = DIAGONAL, **attributes: object) -> np.ndarray:
    return reference.svd_perturb(X, SvdPerturbAttributes(**attributes)).Y  # type: ignore[arg-type]


def test_plain_multiplies_the_largest_singular_values() -> None:
    np.testing.assert_allclose(moved(rank=2, gain=3.0)[0], np.diag([12.0, 6.0, 1.0, 0.5]), atol=1e-12)


def test_strength_goes_half_the_way() -> None:
    half = reference.svd_perturb(DIAGONAL, SvdPerturbAttributes(rank=1, gain=3.0), 0.5).Y
    np.testing.assert_allclose(half[0], np.diag([8.0, 2.0, 1.0, 0.5]), atol=1e-12)


def test_adaptive_follows_the_share_of_energy_in_the_tail() -> None:
    """All energy 21.25 over 16 of the top: the excess gain grows by that to the power adaptive / 2."""
    for adaptive in (0.5, 1.0):
        factor = 1 + 2 * (21.25 / 16) ** (adaptive / 2)
        assert moved(rank=1, gain=3.0, adaptive=adaptive)[0, 0, 0] == pytest.approx(4 * factor)


def test_pattern_raises_the_gain_to_a_power_per_position() -> None:
    X = np.outer([3.0, 4.0], [1.0, 1.0, 2.0, -1.0, 1.0])[None]
    factors = np.array([9.0, 1.0, 1 / 3, 9.0, 1.0])
    keyed = moved(X, rank=1, gain=3.0, modulation=Modulation.PATTERN, pattern=(2.0, 0.0, -1.0))
    np.testing.assert_allclose(keyed, X * factors, atol=1e-12)


def test_the_tail_decides_the_sign() -> None:
    """Two channels carry the one component, four the tail; each keyed projection reads one tail channel.

    It flips where t1 t2 > 0 and max(t3, t4) > 0.
    """
    tail = 0.01 * np.array(
        [
            [1, 1, 1, 1],  # both hold
            [-1, -1, -1, 1],  # two negatives make t1 t2 positive
            [1, -1, 1, 1],  # t1 t2 < 0
            [1, 1, -1, -1],  # max(t3, t4) < 0
            [1, 1, -1, 1],
            [-1, 1, -1, -1],
        ]
    )
    F = np.concatenate([np.full((1, 6), 3.0), np.full((1, 6), 4.0), tail.T])
    key = np.concatenate([np.zeros((4, 2)), np.eye(4)], axis=1)
    margins = reference.tail_margins(
        F,
        np.array([[0.6], [0.8], [0.0], [0.0], [0.0], [0.0]]),
        SvdPerturbAttributes(rank=1, modulation=Modulation.TAIL_SIGN, pattern=key.ravel().tolist()),
    )
    np.testing.assert_allclose(margins[0], 0.01 * np.array([1, 1, -1, -1, 1, -1]), atol=1e-12)
    flipped = moved(F[None], rank=1, gain=5.0, modulation=Modulation.TAIL_SIGN, pattern=key.ravel().tolist())
    expected = np.array([-5, -5, 5, 5, -5, 5]) * 3.0
    np.testing.assert_allclose(flipped[0, 0], expected, atol=0.2)


def test_a_symmetric_tail_flips_three_of_eight() -> None:
    """Eight independent channels, each read by one projection."""
    F = np.random.default_rng(0).standard_normal((8, 40000))
    attributes = SvdPerturbAttributes(rank=2, modulation=Modulation.TAIL_SIGN, pattern=np.eye(8).ravel().tolist())
    share = np.mean(reference.tail_margins(F, np.zeros((8, 2)), attributes) > 0)
    assert share == pytest.approx(3 / 8, abs=0.01)


def test_doubt_does_not_depend_on_scale() -> None:
    X = np.random.default_rng(2).standard_normal((1, 16, 9, 9))
    key = np.random.default_rng(3).standard_normal(64)
    kinds = [(X, key), (1e-4 * X, key), (X, 1e3 * key)]
    doubts = [
        reference.svd_perturb(
            x, SvdPerturbAttributes(rank=2, modulation=Modulation.TAIL_SIGN, pattern=weights.tolist())
        ).doubt
        for x, weights in kinds
    ]
    assert doubts[0].min() > 0
    assert doubts[0].max() < 1
    for other in doubts[1:]:
        np.testing.assert_allclose(other, doubts[0], rtol=1e-4)
    assert np.isinf(reference.svd_perturb(X, SvdPerturbAttributes(gain=3.0)).doubt).all()


def test_coherence_caps_the_change_at_a_multiple_of_the_local_norm() -> None:
    """A change of 9 times the local norm is cut to 2; one that is smaller stays."""
    np.testing.assert_allclose(moved(rank=1, gain=10.0, coherence=2.0)[0, 0], [12.0, 0, 0, 0], atol=1e-12)
    np.testing.assert_allclose(moved(rank=1, gain=10.0, coherence=20.0)[0, 0], [40.0, 0, 0, 0], atol=1e-12)
    X = np.random.default_rng(5).standard_normal((2, 8, 40)) + 1
    attributes = SvdPerturbAttributes(rank=2, gain=30.0, coherence=0.5, centred=True)
    change = np.linalg.norm(reference.svd_perturb(X, attributes).change, axis=1)
    local = np.linalg.norm(X - X.mean(axis=2, keepdims=True), axis=1)
    assert (change <= 0.5 * local * (1 + 1e-9)).all()
    assert np.mean(change > 0.499 * local) > 0.5


def test_stride_takes_mean_and_vectors_from_some_rows_only() -> None:
    """The third row, which stride 2 does not see, holds the largest values."""
    X = np.zeros((1, 2, 3, 2))
    X[0, 0, 0] = X[0, 0, 2] = [1, -1]
    X[0, 1, 1] = [50, -50]
    np.testing.assert_allclose(moved(X, rank=1, gain=4.0, stride=2)[0, 0, 0], [4, -4])
    np.testing.assert_allclose(moved(X, rank=1, gain=4.0, stride=2)[0, 1], X[0, 1])
    np.testing.assert_allclose(moved(X, rank=1, gain=4.0)[0, 1, 1], [200, -200])


def test_sixteen_bit_elements_that_cannot_be_undone_stay() -> None:
    """1000 read, 1.2e5 written: too large. 2^-12 + 2^-22 read, 100 written: 29 bits of change."""
    for small, large in ((1000.0, 60.0), (2.0**-12 + 2.0**-22, 60.0)):
        X = np.array([[[small, large], [large, large]]], np.float16)
        result = reference.svd_perturb(X, SvdPerturbAttributes(rank=1, gain=120.0))
        assert np.isfinite(result.Y).all()
        np.testing.assert_array_equal(reference.svd_restore(result.Y, result.change), X)
    assert result.Y[0, 0, 0] == X[0, 0, 0]
    assert result.Y[0, 1, 1] != X[0, 1, 1]
