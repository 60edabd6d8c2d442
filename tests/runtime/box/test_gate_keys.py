"""A gate's key files: who may read them, and that no message quotes a secret."""

from __future__ import annotations

from pathlib import Path

import pytest

from kdguard.export.errors import UserError
from kdguard.graph_passes.key_gate import KeyDigest
from kdguard.runtime.box.gate_keys import (
    DIGEST_WORD,
    collect_digests,
    make_gate_key,
    parse_hints,
    read_gate_digest,
    read_gate_secret,
)


def test_a_pair_belongs_together(tmp_path: Path) -> None:
    digest = make_gate_key(tmp_path / "a")
    assert (tmp_path / "a").stat().st_mode & 0o777 == 0o600
    secret = read_gate_secret(tmp_path / "a")
    assert KeyDigest.of(secret) == digest == read_gate_digest(tmp_path / "a.pub")
    assert secret.value.hex() not in (tmp_path / "a.pub").read_text()
    with pytest.raises(UserError, match="never replaced"):
        make_gate_key(tmp_path / "a")


def test_files_that_hold_something_else(tmp_path: Path) -> None:
    make_gate_key(tmp_path / "a")
    secret, digest = (tmp_path / "a").read_text(), (tmp_path / "a.pub").read_text()
    for text, message in (
        (digest, "that is a digest, which opens nothing"),
        (secret[:-5], "no gate secret, or a damaged one"),
        (secret.replace(" ", " zz"), "no gate secret, or a damaged one"),
        ("AGE-SECRET-KEY-1XYZ", "no gate secret, or a damaged one"),
        ("", "the file is empty"),
    ):
        (tmp_path / "bad").write_text(text)
        with pytest.raises(UserError, match=message) as caught:
            read_gate_secret(tmp_path / "bad")
        assert secret.split()[1][:12] not in str(caught.value)
    for text, message in (
        (secret, "that is a holder's secret, which nobody else may see"),
        (digest[:-5], "a key digest has 144 residues below 251, and this is something else"),
        (digest.replace(" ", " ff"), "a key digest has 144 residues below 251, and this is something else"),
        (digest.replace(" ", " zz"), "no digest of a gate's key, or a damaged one"),
    ):
        (tmp_path / "bad.pub").write_text(text)
        with pytest.raises(UserError, match=message) as caught:
            read_gate_digest(tmp_path / "bad.pub")
        assert secret.split()[1][:12] not in str(caught.value)
    for residues, message in (
        (bytes(144), "the digest of the key of zeros"),
        (b"\xff" * 144, "144 residues below 251"),
    ):
        (tmp_path / "bad.pub").write_text(f"{DIGEST_WORD} {residues.hex()}\n")
        with pytest.raises(UserError, match=rf"bad\.pub: .*{message}"):
            collect_digests([tmp_path / "a.pub", tmp_path / "bad.pub"])


def test_holders_are_named_once(tmp_path: Path) -> None:
    digests = [make_gate_key(tmp_path / name) for name in "ab"]
    files = [tmp_path / "a.pub", tmp_path / "b.pub"]
    assert collect_digests(files) == digests
    with pytest.raises(UserError, match=r"b\.pub: the same digest as in .*b\.pub; name each holder once"):
        collect_digests([*files, files[1]])
    with pytest.raises(UserError, match="a gate needs holders"):
        collect_digests([])


@pytest.mark.parametrize(
    ("text", "parsed"),
    [
        ("relu_*", ("relu_*", 4)),
        ("relu_1:2", ("relu_1", 2)),
        ("/a/b:0", ("/a/b:0", 4)),
        ("/a/b:1:4", ("/a/b:1", 4)),
        ("x:y", ("x:y", 4)),
        ("x:²", ("x:²", 4)),
        ("x:-1", ("x:-1", 4)),
        ("x:1" + "0" * 5000, ("x:1" + "0" * 5000, 4)),
    ],
)
def test_hints(text: str, parsed: tuple[str, int]) -> None:
    assert parse_hints([text]) == dict([parsed])


def test_hints_are_named_once() -> None:
    assert parse_hints(["a:2", "b"]) == {"a": 2, "b": 4}
    with pytest.raises(UserError, match="'a' is named twice"):
        parse_hints(["a:2", "b", "a:3"])
    for text in ("", ":3"):
        with pytest.raises(UserError, match="names no layer"):
            parse_hints([text])
