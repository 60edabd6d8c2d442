"""Streams through pyrage: exceptions keep their kind, many holders, age's own format."""

from __future__ import annotations

import io
from collections.abc import Iterator
from pathlib import Path

import pyrage
import pytest

from kdguard.export.errors import UserError
from kdguard.runtime.box.encryption import decrypt, encrypt
from kdguard.runtime.box.keys import make_holder_key, read_holder_key


@pytest.fixture
def public(tmp_path: Path) -> str:
    return make_holder_key(tmp_path / "k")


@pytest.mark.parametrize("kind", [UserError, OSError, KeyboardInterrupt])
def test_exceptions_keep_their_kind(tmp_path: Path, public: str, kind: type[BaseException]) -> None:
    def broken(*_: object) -> int:
        raise kind("stop")

    def broken_chunks() -> Iterator[bytes]:
        yield b"x"
        broken()

    class Target(io.BytesIO):
        write = broken  # type: ignore[assignment]

    with pytest.raises(kind, match="stop"):
        encrypt(broken_chunks(), io.BytesIO(), [public])
    with pytest.raises(kind, match="stop"):
        encrypt(iter([bytes(10**6)]), Target(), [public])
    box = io.BytesIO()
    encrypt(iter([b"x"]), box, [public])
    keys = read_holder_key(tmp_path / "k")
    with pytest.raises(kind, match="stop"):
        decrypt(iter([box.getvalue()]), broken, keys, "the box")
    with pytest.raises(kind, match="stop"):
        decrypt(broken_chunks(), len, keys, "the box")


def test_what_age_reads(tmp_path: Path, public: str) -> None:
    content = bytes(range(256)) * 1000
    box = io.BytesIO()
    encrypt(iter([content[:1], b"", content[1:]]), box, [public])
    assert pyrage.decrypt(box.getvalue(), read_holder_key(tmp_path / "k")) == content


def test_three_hundred_holders(tmp_path: Path) -> None:
    identities = [pyrage.x25519.Identity.generate() for _ in range(300)]
    box, plain = io.BytesIO(), io.BytesIO()
    encrypt(iter([b"content"]), box, [str(identity.to_public()) for identity in identities])
    decrypt(iter([box.getvalue()]), plain.write, identities[-1:], "the box")
    assert plain.getvalue() == b"content"
