"""The gate's one-way function: a binary key times a public random matrix modulo a small prime.

    digest = key A mod q,    key in {0, 1}^n,    A uniform in Z_q^(n x m)

It is Ajtai's function (STOC 1996), with SWIFFT's key length and nearly its prime but without SWIFFT's ring structure
(Lyubashevsky, Micciancio, Peikert, Rosen, FSE 2008): finding a binary key for a digest is the inhomogeneous short
integer solution problem, a subset sum over Z_q^m. docs/key-gate.md says what is assumed of it, and what known attacks
cost.

It fits a graph: integers below 2^18, so that sums are exact in float32 in any order, and in TF32 and bfloat16 products
too, which hold integers up to 256.
"""

from __future__ import annotations

import hashlib
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

KEY_BITS = 1024
"""n. More than a secret has, so that guessing the secret stays the cheapest attack known."""
RESIDUES = 144
"""m. q^m is 2^124 times the number of keys, so that a second key for a digest most likely does not exist: accepted is
the holder's own key and nothing else."""
MODULUS = 251
"""q, the largest prime of eight bits."""
DEFAULT_SEED = b"kdguard key gate, matrix 1"
"""Says that nobody chose the matrix for a trapdoor in it."""


@lru_cache(maxsize=4)
def public_matrix(seed: bytes = DEFAULT_SEED) -> NDArray[np.uint8]:
    """The matrix A [KEY_BITS, RESIDUES], entries below MODULUS, read-only.

    Bytes of SHAKE-256 of the seed in their order, those from MODULUS on left out, which makes entries uniform.
    """
    wanted = KEY_BITS * RESIDUES
    drawn = np.frombuffer(hashlib.shake_256(b"kdguard key gate matrix\0" + seed).digest(wanted + wanted // 8), np.uint8)
    entries = drawn[drawn < MODULUS][:wanted]
    assert entries.size == wanted, "an eighth to spare is 100 standard deviations"
    return entries.reshape(KEY_BITS, RESIDUES)


def lattice_hash(bits: NDArray[np.floating | np.integer | np.bool_], seed: bytes = DEFAULT_SEED) -> NDArray[np.uint8]:
    """The digests [..., RESIDUES] of keys [..., KEY_BITS] of zeros and ones."""
    sums = np.asarray(bits, np.float32) @ public_matrix(seed).astype(np.float32)
    return (sums.astype(np.int64) % MODULUS).astype(np.uint8)
