"""Secrets, what they expand to, and digests."""

from __future__ import annotations

import hashlib

import numpy as np
import pytest

from kdguard.export.errors import UserError
from kdguard.graph_passes.key_gate import KEY_BITS, GateSecret, KeyDigest, key_tensor, new_gate_secret
from kdguard.graph_passes.key_gate.lattice_hash import RESIDUES, lattice_hash
from tests.graph_passes.key_gate.gate_models import secret


def test_the_key_is_the_secret_expanded() -> None:
    key = key_tensor(secret(0))
    assert (key.dtype, key.shape) == (np.float32, (KEY_BITS,))
    assert set(key.tolist()) == {0.0, 1.0}
    assert not np.signbit(key).any()
    stream = hashlib.shake_256(b"kdguard key gate key\0" + secret(0).value).digest(KEY_BITS // 8)
    assert np.packbits(key.astype(np.uint8)).tobytes() == stream
    assert 400 < key.sum() < 624
    assert 400 < np.abs(key - key_tensor(secret(1))).sum() < 624


def test_secrets_do_not_show() -> None:
    fresh = new_gate_secret()
    assert len(fresh.value) == 32
    assert fresh != new_gate_secret()
    for text in (repr(fresh), str(fresh), f"{fresh}"):
        assert text == "GateSecret()"
    with pytest.raises(UserError, match="has 32 bytes and this one has 5") as caught:
        GateSecret(b"short")
    assert "short" not in str(caught.value)
    for no_bytes in ("x" * 32, bytearray(32), [0] * 32):
        with pytest.raises(UserError, match=f"is of type {type(no_bytes).__name__}"):
            GateSecret(no_bytes)  # type: ignore[arg-type]


def test_digests() -> None:
    digest = KeyDigest.of(secret(0))
    assert digest == KeyDigest.of(GateSecret(secret(0).value))
    assert digest != KeyDigest.of(secret(1))
    assert digest != KeyDigest.of(secret(0), b"another matrix")
    for wrong in (digest.residues[:-1], b"\xff" * len(digest.residues), b""):
        with pytest.raises(UserError, match="a key digest has 144 residues below 251"):
            KeyDigest(wrong)


def test_the_digest_of_zeros_is_refused() -> None:
    """It is that of the key of zeros under any matrix; others are for their holders to keep."""
    with pytest.raises(UserError, match="the digest of the key of zeros, which is no secret"):
        KeyDigest(bytes(RESIDUES))
    assert not lattice_hash(np.zeros(KEY_BITS), b"any").any()
    KeyDigest(b"\1" * RESIDUES)
    KeyDigest(bytes(RESIDUES - 1) + b"\1")
