"""The releaser's key: made, read, mixed up; what it signs and what it does not."""

from __future__ import annotations

from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from kdguard.export.errors import UserError
from kdguard.runtime.box.contents import Signature
from kdguard.runtime.box.keys import make_holder_key
from kdguard.runtime.box.signing import (
    is_signed,
    make_signing_key,
    read_signing_key,
    read_verifying_key,
    sign,
    signer_of,
)


def test_round_trip(tmp_path: Path) -> None:
    name = make_signing_key(tmp_path / "r")
    assert (tmp_path / "r").stat().st_mode & 0o777 == 0o600
    signature = sign(read_signing_key(tmp_path / "r"), b"message")
    assert signature.public_key == read_verifying_key(tmp_path / "r.pub")
    assert signer_of(signature.public_key) == name
    assert is_signed(b"message", Signature.model_validate_json(signature.line()))


def test_another_message_key_or_signature(tmp_path: Path) -> None:
    for name in "ab":
        make_signing_key(tmp_path / name)
    signature = sign(read_signing_key(tmp_path / "a"), b"message")
    assert not is_signed(b"massage", signature)
    assert not is_signed(
        b"message", signature.model_copy(update={"public_key": read_verifying_key(tmp_path / "b.pub")})
    )
    changed = bytes([signature.signature[0] ^ 1]) + signature.signature[1:]
    assert not is_signed(b"message", signature.model_copy(update={"signature": changed}))
    assert not is_signed(b"message", signature.model_copy(update={"public_key": bytes(32)}))


def test_mixed_up(tmp_path: Path) -> None:
    make_signing_key(tmp_path / "r")
    make_holder_key(tmp_path / "h")
    with pytest.raises(UserError, match="that is a public key, which signs nothing"):
        read_signing_key(tmp_path / "r.pub")
    with pytest.raises(UserError, match="that is a secret key, which the releaser alone may have"):
        read_verifying_key(tmp_path / "r")
    for read in (read_signing_key, read_verifying_key):
        for path in (tmp_path / "h", tmp_path / "h.pub"):
            with pytest.raises(UserError, match=r"no (public )?signing key, or a damaged one"):
                read(path)


def test_other_kinds_and_damage(tmp_path: Path) -> None:
    make_signing_key(tmp_path / "r")
    key, pem = ec.generate_private_key(ec.SECP256R1()), serialization.Encoding.PEM
    password = serialization.BestAvailableEncryption(b"x")
    cut = (tmp_path / "r").read_text()[:60]
    for text in (
        key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()).decode(),
        read_signing_key(tmp_path / "r").private_bytes(pem, serialization.PrivateFormat.PKCS8, password).decode(),
        cut,
    ):
        (tmp_path / "bad").write_text(text)
        with pytest.raises(UserError, match="no signing key, or a damaged one") as caught:
            read_signing_key(tmp_path / "bad")
        assert text.splitlines()[1][:20] not in str(caught.value)
    (tmp_path / "bad").write_bytes(key.public_key().public_bytes(pem, serialization.PublicFormat.SubjectPublicKeyInfo))
    with pytest.raises(UserError, match="no public signing key"):
        read_verifying_key(tmp_path / "bad")
    (tmp_path / "bad").write_text("")
    with pytest.raises(UserError, match="the file is empty"):
        read_verifying_key(tmp_path / "bad")
