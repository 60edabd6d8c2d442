"""Boxes that somebody forged: anybody can encrypt to a holder, so what is inside is not believed either."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from hashlib import sha256
from pathlib import Path
from typing import BinaryIO

import pytest

from kdguard.export.errors import UserError
from kdguard.runtime.box.contents import MAGIC, BoxContents, Hashes, Piece, SealedFile
from kdguard.runtime.box.receive import Receiver
from kdguard.runtime.box.signing import make_signing_key, read_signing_key, sign
from tests.runtime.box.release import Release, box_bytes, contents_of

DATA = b"the teacher's bytes"


class Received:
    """Runs a plaintext through a receiver, in pieces of a size."""

    def __init__(self, sources: list[Path]) -> None:
        self.parts: dict[str | None, bytes] = {}
        self.receiver = Receiver("the box", sources, lambda contents: None, self.keep)

    @contextmanager
    def keep(self, name: str | None) -> Iterator[BinaryIO]:
        stream = io.BytesIO()
        yield stream
        self.parts[name] = stream.getvalue()

    def take(self, plaintext: bytes, size: int = 8192) -> Receiver:
        for start in range(0, len(plaintext), size):
            self.receiver.write(plaintext[start : start + size])
        self.receiver.finish()
        return self.receiver


@pytest.fixture
def take(release: Release) -> Callable[..., Receiver]:
    return Received([release.hardened]).take


def refusal(take: Callable[..., Receiver], plaintext: bytes) -> str:
    with pytest.raises(UserError) as caught:
        take(plaintext)
    assert "the box" in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("size", [1, 7, 64, 10**6])
def test_in_pieces_of_any_size(release: Release, size: int) -> None:
    contents = contents_of(
        release,
        b"",
        model=SealedFile(pieces=[Piece(length=5), Piece(length=8, source=0, offset=3), Piece(length=14)]),
        data={"b.bin": SealedFile(pieces=[]), "a.bin": SealedFile(pieces=[Piece(length=2)])},
    )
    copied = release.hardened.read_bytes()[3:11]
    expected = {None: DATA[:5] + copied + DATA[5:], "a.bin": b"\n\n", "b.bin": b""}
    digests = [sha256(expected[name]).hexdigest() for name in (None, "b.bin", "a.bin")]
    received = Received([release.hardened])
    receiver = received.take(box_bytes(contents, DATA + b"\n\n", digests), size)
    assert received.parts == expected
    assert receiver.contents.model_dump() == contents.model_dump()
    assert receiver.hashes == Hashes(sha256=digests)
    assert receiver.signed_by is None


def test_another_format(release: Release, take: Callable[..., Receiver]) -> None:
    plaintext = box_bytes(contents_of(release, DATA), DATA)
    assert "by a newer one" in refusal(take, plaintext.replace(MAGIC, b"kdguard-box-2\n"))


def test_no_magic_at_all(take: Callable[..., Receiver]) -> None:
    assert "sealed by something else" in refusal(take, b"hello\n")


@pytest.mark.parametrize("size", [1, 10**6])
def test_cut_off_inside(release: Release, size: int) -> None:
    whole = box_bytes(contents_of(release, DATA), DATA)
    for length in (0, 5, len(MAGIC), len(MAGIC) + 9, whole.index(DATA), whole.index(DATA) + 3, len(whole) - 1):
        with pytest.raises(UserError, match="it ends too early"):
            Received([release.hardened]).take(whole[:length], size)


@pytest.mark.parametrize("more", [b"x", b"\n", b"x" * 10**5])
def test_something_follows(release: Release, take: Callable[..., Receiver], more: bytes) -> None:
    assert "something follows its end" in refusal(take, box_bytes(contents_of(release, DATA), DATA) + more)


def test_what_it_says_does_not_make_sense(release: Release) -> None:
    good = contents_of(release, DATA).line()
    for head in (
        b"\n",
        b"null\n",
        b"{}\n",
        b"[" * 100_000 + b"\n",
        good.replace(b'"kdguard_version"', b'"other"'),
        good.replace(b"}\n", b', "gate_key": "!hunter2!"}\n'),
        good.replace(b'"length":19', b'"length":-1'),
        good.replace(b'"model"', b'"data":{"../w":{"pieces":[]}},"model"'),
        good.replace(b'"model"', b'"data":{"/etc/passwd":{"pieces":[]}},"model"'),
    ):
        assert head != good
        received = Received([release.hardened])
        message = refusal(received.take, MAGIC + head + DATA)
        assert "does not make sense" in message
        assert "hunter2" not in message
        assert received.parts == {}


def test_a_line_without_an_end(take: Callable[..., Receiver], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("kdguard.runtime.box.receive.LONGEST_LINE", 100)
    assert "a line has no end" in refusal(take, MAGIC + b"x" * 10**4)


def test_copies_of_what_is_not_there(release: Release) -> None:
    size = release.hardened.stat().st_size
    for pieces in (
        [Piece(length=1, source=1)],
        [Piece(length=1, source=0, offset=size)],
        [Piece(length=size + 1, source=0)],
        [Piece(length=10**30, source=0)],
        [Piece(length=size, source=0), Piece(length=1, source=0)],
    ):
        received = Received([release.hardened])
        contents = contents_of(release, b"", model=SealedFile(pieces=pieces))
        assert "copies what the hardened model does not have" in refusal(received.take, box_bytes(contents, b""))
        assert received.parts == {}


def test_another_teacher_than_it_states(release: Release, take: Callable[..., Receiver]) -> None:
    message = refusal(take, box_bytes(contents_of(release, DATA), DATA.replace(b"bytes", b"bites"), ["0" * 64]))
    assert "not the one that it states" in message


@pytest.mark.parametrize("digests", [[], ["0" * 64] * 2])
def test_more_or_fewer_hashes(release: Release, take: Callable[..., Receiver], digests: list[str]) -> None:
    assert "not the one that it states" in refusal(take, box_bytes(contents_of(release, DATA), DATA, digests))


def test_signatures(release: Release, tmp_path: Path) -> None:
    name = make_signing_key(tmp_path / "r")
    key = read_signing_key(tmp_path / "r")
    contents = contents_of(release, DATA)
    plain = box_bytes(contents, DATA)
    signed = plain.removesuffix(b"null\n").replace(DATA, b"")

    def with_signature(line: bytes, said: BoxContents = contents) -> bytes:
        return box_bytes(said, DATA, signature=line)

    good = sign(key, signed).line()
    assert Received([release.hardened]).take(with_signature(good)).signed_by == name
    other = contents.model_copy(update={"kdguard_version": "1"})
    for plaintext in (with_signature(sign(key, signed + b"x").line()), with_signature(good, other)):
        received = Received([release.hardened])
        assert "its signature is not valid" in refusal(received.take, plaintext)
    for line in (b"{}\n", b'"AAAA"\n', good.replace(b"public_key", b"key")):
        assert "does not make sense" in refusal(Received([release.hardened]).take, with_signature(line))
