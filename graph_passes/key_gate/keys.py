"""What a key holder keeps, and what a model keeps of it."""

from __future__ import annotations

import hashlib
import secrets
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from kdguard.export.errors import UserError
from kdguard.graph_passes.key_gate.lattice_hash import DEFAULT_SEED, KEY_BITS, MODULUS, RESIDUES, lattice_hash

SECRET_BYTES = 32


@dataclass(frozen=True)
class GateSecret:
    """A holder's secret, 32 random bytes; it never shows in a repr.

    Raises:
        UserError: another length, or no bytes.
    """

    value: bytes = field(repr=False)

    def __post_init__(self) -> None:
        if not isinstance(self.value, bytes):  # text of 32 characters would pass for them
            raise UserError(f"a gate secret is {SECRET_BYTES} bytes, and this is of type {type(self.value).__name__}")
        if len(self.value) != SECRET_BYTES:
            raise UserError(f"a gate secret has {SECRET_BYTES} bytes and this one has {len(self.value)}")


@dataclass(frozen=True, order=True)
class KeyDigest:
    """The hash of one holder's key: public, it opens nothing.

    Raises:
        UserError: no digest of this version, or that of the key of zeros, which callers feed who have none.
    """

    residues: bytes

    def __post_init__(self) -> None:
        if len(self.residues) != RESIDUES or max(self.residues) >= MODULUS:
            raise UserError(f"a key digest has {RESIDUES} residues below {MODULUS}, and this is something else")
        if not any(self.residues):
            raise UserError("this is the digest of the key of zeros, which is no secret and would let everybody in")

    @property
    def name(self) -> str:
        """Short, to tell holders apart by."""
        return hashlib.sha256(self.residues).hexdigest()[:12]

    @classmethod
    def of(cls, secret: GateSecret, seed: bytes = DEFAULT_SEED) -> KeyDigest:
        """The digest of a secret under the public matrix of a seed."""
        return cls(lattice_hash(key_tensor(secret), seed).tobytes())


def new_gate_secret() -> GateSecret:
    """A fresh one, from the operating system's generator."""
    return GateSecret(secrets.token_bytes(SECRET_BYTES))


def key_tensor(secret: GateSecret) -> NDArray[np.float32]:
    """What goes into the model's input `kdguard_key`: zeros and ones [KEY_BITS], SHAKE-256 of the secret."""
    stream = hashlib.shake_256(b"kdguard key gate key\0" + secret.value).digest(KEY_BITS // 8)
    return np.unpackbits(np.frombuffer(stream, np.uint8)).astype(np.float32)
