"""The hash in NumPy: what it is, and what makes it exact and unambiguous."""

from __future__ import annotations

import hashlib
from math import log2

import numpy as np

from kdguard.graph_passes.key_gate.lattice_hash import (
    DEFAULT_SEED,
    KEY_BITS,
    MODULUS,
    RESIDUES,
    lattice_hash,
    public_matrix,
)


def test_the_matrix_is_public_and_uniform() -> None:
    A = public_matrix()
    assert (A.shape, A.dtype) == ((KEY_BITS, RESIDUES), np.uint8)
    assert A.max() == MODULUS - 1
    # Anybody can draw it again: released gates depend on these very numbers.
    assert hashlib.sha256(A.tobytes()).hexdigest().startswith("f10ac1f6d2bc477c")
    counts = np.bincount(A.ravel(), minlength=MODULUS)
    expected = A.size / MODULUS
    chi_squared = float(((counts - expected) ** 2 / expected).sum())
    assert abs(chi_squared - (MODULUS - 1)) < 5 * np.sqrt(2 * (MODULUS - 1))
    assert not np.array_equal(A, public_matrix(b"another seed"))
    assert np.array_equal(A, public_matrix(DEFAULT_SEED))


def test_the_hash_is_what_it_says() -> None:
    bits = np.random.default_rng(0).integers(0, 2, (3, KEY_BITS))
    exact = [[sum(int(a) for a in column[row == 1]) % MODULUS for column in public_matrix().T] for row in bits]
    assert lattice_hash(bits).tolist() == exact
    assert lattice_hash(bits[1]).tolist() == exact[1]


def test_sums_are_exact_in_float32_and_in_shorter_products() -> None:
    assert KEY_BITS * (MODULUS - 1) < 2**24  # any order of additions
    assert MODULUS - 1 < 2**8  # bfloat16 holds 8 bits, TF32 11


def test_a_division_that_is_a_little_off_does_no_harm() -> None:
    sums = np.arange(KEY_BITS * (MODULUS - 1) + 1, dtype=np.float32)
    quotients = (sums + np.float32(0.5)) / np.float32(MODULUS)
    for error in (-4, 4):
        off = quotients * np.float32(1 + error * 2.0**-23)
        assert np.array_equal(np.floor(off), sums.astype(np.int64) // MODULUS)


def test_another_key_for_a_digest_most_likely_does_not_exist() -> None:
    assert KEY_BITS - RESIDUES * log2(MODULUS) < -120
    # And a key that differs in one bit has another digest, whatever the key: no row of the matrix is zero.
    assert public_matrix().any(axis=1).all()
