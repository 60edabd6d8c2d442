"""The releaser's signature: Ed25519, with which a holder tells who sealed a box.

Whoever knows a holder's public key can encrypt to him, so age alone does not say who did.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import TYPE_CHECKING

from kdguard.export.errors import UserError
from kdguard.runtime.box.contents import Signature
from kdguard.runtime.box.key_files import read_key_file, write_pair

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

_SECRET_FILE = "a secret signing key, as `kdguard keygen --signing` makes it"  # noqa: S105, for messages
_PUBLIC_FILE = "the releaser's public signing key, the .pub file of `kdguard keygen --signing`"


def signer_of(public_key: bytes) -> str:
    """How a signer is named: SHA-256 of the raw public key."""
    return hashlib.sha256(public_key).hexdigest()


def make_signing_key(path: Path) -> str:
    """Make a releaser's key pair, PEM; the name of its public key as `signer_of` gives it.

    Raises:
        UserError: the files are there already or cannot be written.
    """
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    key = Ed25519PrivateKey.generate()
    pem = serialization.Encoding.PEM
    secret = key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    public = key.public_key().public_bytes(pem, serialization.PublicFormat.SubjectPublicKeyInfo)
    write_pair(path, secret.decode(), public.decode())
    return signer_of(key.public_key().public_bytes_raw())


def read_signing_key(path: Path) -> Ed25519PrivateKey:
    """The secret signing key in a file.

    Raises:
        UserError: it holds none, or something else.
    """
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
    from cryptography.hazmat.primitives.serialization import load_pem_private_key

    text = read_key_file(path, _SECRET_FILE)
    if "PUBLIC KEY" in text:
        raise UserError(f"{path}: that is a public key, which signs nothing; give a file with {_SECRET_FILE}")
    try:
        key = load_pem_private_key(text.encode(), password=None)
    except (ValueError, TypeError, UnsupportedAlgorithm):
        key = None
    if not isinstance(key, Ed25519PrivateKey):
        raise UserError(f"{path}: no signing key, or a damaged one; give a file with {_SECRET_FILE}")
    return key


def read_verifying_key(path: Path) -> bytes:
    """The raw public signing key in a file.

    Raises:
        UserError: it holds none, or something else.
    """
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
    from cryptography.hazmat.primitives.serialization import load_pem_public_key

    text = read_key_file(path, _PUBLIC_FILE)
    if "PRIVATE KEY" in text:
        raise UserError(
            f"{path}: that is a secret key, which the releaser alone may have; give a file with {_PUBLIC_FILE}"
        )
    try:
        key = load_pem_public_key(text.encode())
    except (ValueError, TypeError, UnsupportedAlgorithm):
        key = None
    if not isinstance(key, Ed25519PublicKey):
        raise UserError(f"{path}: no public signing key, or a damaged one; give a file with {_PUBLIC_FILE}")
    return key.public_bytes_raw()


def sign(key: Ed25519PrivateKey, message: bytes) -> Signature:
    """Sign a message."""
    return Signature(public_key=key.public_key().public_bytes_raw(), signature=key.sign(message))


def is_signed(message: bytes, signature: Signature) -> bool:
    """Whether the key that a signature names has signed this very message."""
    from cryptography.exceptions import InvalidSignature
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

    try:
        Ed25519PublicKey.from_public_bytes(signature.public_key).verify(signature.signature, message)
    except InvalidSignature:
        return False
    return True
