"""Holders' keys: who may read them, what is refused, and that no message quotes a secret."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from kdguard.export.errors import UserError
from kdguard.graph_passes.key_gate import KeyDigest
from kdguard.runtime.box.gate_keys import make_gate_key, read_gate_digest, read_gate_secret
from kdguard.runtime.box.key_files import readable_by_others
from kdguard.runtime.box.keys import collect_holders, make_holder_key, read_holder_key
from kdguard.runtime.box.signing import make_signing_key, read_signing_key, read_verifying_key, signer_of
from tests.runtime.commands.command_line import listing


@pytest.fixture
def permissive_umask() -> Iterator[None]:
    before = os.umask(0)
    yield
    os.umask(before)


def secret_in(path: Path) -> str:
    (line,) = (line for line in path.read_text().splitlines() if not line.startswith("#"))
    return line


@pytest.mark.usefixtures("permissive_umask")
def test_only_the_owner_reads_a_new_secret(tmp_path: Path) -> None:
    public = make_holder_key(tmp_path / "k")
    assert (tmp_path / "k").stat().st_mode & 0o777 == 0o600
    assert not readable_by_others(tmp_path / "k")
    assert (tmp_path / "k.pub").read_text() == f"{public}\n"
    assert secret_in(tmp_path / "k").startswith("AGE-SECRET-KEY-1")
    assert "SECRET" not in (tmp_path / "k.pub").read_text()
    (tmp_path / "k").chmod(0o640)
    assert readable_by_others(tmp_path / "k")
    assert not readable_by_others(tmp_path / "absent")


def test_two_keys_differ_and_match_their_public_halves(tmp_path: Path) -> None:
    publics = [make_holder_key(tmp_path / name) for name in "ab"]
    assert publics[0] != publics[1]
    for name, public in zip("ab", publics, strict=True):
        (identity,) = read_holder_key(tmp_path / name)
        assert str(identity.to_public()) == public


@pytest.mark.parametrize("present", ["k", "k.pub"])
def test_nothing_is_replaced(tmp_path: Path, present: str) -> None:
    (tmp_path / present).write_text("mine")
    with pytest.raises(UserError, match="never replaced"):
        make_holder_key(tmp_path / "k")
    assert listing(tmp_path) == [present]
    assert (tmp_path / present).read_text() == "mine"


def test_no_link_is_followed(tmp_path: Path) -> None:
    (tmp_path / "k").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(UserError, match="never replaced"):
        make_holder_key(tmp_path / "k")
    assert not (tmp_path / "elsewhere").exists()


def test_several_keys_in_one_file(tmp_path: Path) -> None:
    publics = [make_holder_key(tmp_path / name) for name in "ab"]
    (tmp_path / "both").write_text((tmp_path / "a").read_text() + "\n" + (tmp_path / "b").read_text())
    assert [str(identity.to_public()) for identity in read_holder_key(tmp_path / "both")] == publics


@pytest.mark.parametrize(
    ("content", "line"),
    [
        (None, "no such file"),
        (b"", "the file is empty"),
        (b" \n\n", "the file is empty"),
        (b"# only a comment\n", "there is no key in it"),
        (b"hunter2hunter2\n", "line 1 is no secret key"),
        (b"# one\n\nAGE-SECRET-KEY-1hunter2hunter2\n", "line 3 is no secret key"),
        (b"\xff\xfehunter2", "not a text file"),
        (b"x" * (2**20 + 1), "too large for a key"),
    ],
)
def test_key_files_that_are_none(tmp_path: Path, content: bytes | None, line: str) -> None:
    if content is not None:
        (tmp_path / "k").write_bytes(content)
    with pytest.raises(UserError, match=line) as caught:
        read_holder_key(tmp_path / "k")
    assert str(tmp_path / "k") in str(caught.value)
    assert "hunter2" not in str(caught.value)
    assert "kdguard keygen" in str(caught.value)


def test_a_byte_order_mark_does_no_harm(tmp_path: Path) -> None:
    """Some editors put it first; it is no part of a key."""
    public, digest, signer = (
        make_holder_key(tmp_path / "k"),
        make_gate_key(tmp_path / "g"),
        make_signing_key(tmp_path / "s"),
    )
    for name in ("k", "k.pub", "g", "g.pub", "s", "s.pub"):
        content = (tmp_path / name).read_bytes()
        (tmp_path / name).write_bytes(b"\xef\xbb\xbf" + content)
    assert str(read_holder_key(tmp_path / "k")[0].to_public()) == public
    assert collect_holders((), [tmp_path / "k.pub"]) == [public]
    assert KeyDigest.of(read_gate_secret(tmp_path / "g")) == read_gate_digest(tmp_path / "g.pub") == digest
    assert read_signing_key(tmp_path / "s").public_key().public_bytes_raw() == read_verifying_key(tmp_path / "s.pub")
    assert signer_of(read_verifying_key(tmp_path / "s.pub")) == signer


def test_a_cut_off_secret_is_not_quoted(tmp_path: Path) -> None:
    make_holder_key(tmp_path / "k")
    secret = secret_in(tmp_path / "k")
    (tmp_path / "cut").write_text(secret[:-1])
    with pytest.raises(UserError, match="line 1 is no secret key") as caught:
        read_holder_key(tmp_path / "cut")
    assert secret[16:30] not in str(caught.value)
    assert caught.value.__cause__ is None


def test_public_where_a_secret_is_needed(tmp_path: Path) -> None:
    make_holder_key(tmp_path / "k")
    with pytest.raises(UserError, match="that is a public key, which opens nothing"):
        read_holder_key(tmp_path / "k.pub")


def test_holders_from_files_and_by_name(tmp_path: Path) -> None:
    a, b, c = (make_holder_key(tmp_path / name) for name in "abc")
    (tmp_path / "list").write_text(f"# the studio\n\n{a}\n  {b}  # Bob\n")
    assert collect_holders([c], [tmp_path / "list"]) == [c, a, b]
    assert collect_holders([], [tmp_path / "a.pub"]) == [a]


def test_holders_that_cannot_be(tmp_path: Path) -> None:
    a, b = (make_holder_key(tmp_path / name) for name in "ab")
    with pytest.raises(UserError, match="a box needs holders"):
        collect_holders([], [])
    (tmp_path / "none").write_text("# nobody\n")
    with pytest.raises(UserError, match="there is no key in it"):
        collect_holders([b], [tmp_path / "none"])
    (tmp_path / "list").write_text(f"{b}\n{a.upper()}\n")
    for named, files in (([a, a], []), ([a], [tmp_path / "list"]), ([a.upper()], [tmp_path / "a.pub"])):
        with pytest.raises(UserError, match=f"{a} is named twice"):
            collect_holders(named, files)
    for bad in ("", "age1", a[:-1], f"{a}x", "ssh-ed25519 AAAA"):
        with pytest.raises(UserError, match="--holder: no public key of a holder"):
            collect_holders([bad], [])
    (tmp_path / "list").write_text(f"{b}\nalice {a}\n")
    with pytest.raises(UserError, match="list: line 2: no public key"):
        collect_holders([], [tmp_path / "list"])


def test_a_secret_where_a_public_key_is_needed(tmp_path: Path) -> None:
    make_holder_key(tmp_path / "k")
    secret = secret_in(tmp_path / "k")
    for named, files in (([secret], []), ([secret.lower()], []), ([], [tmp_path / "k"])):
        with pytest.raises(UserError, match="that is a secret key") as caught:
            collect_holders(named, files)
        assert secret[16:30].lower() not in str(caught.value).lower()
