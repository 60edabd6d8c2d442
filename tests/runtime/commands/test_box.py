"""`kdguard keygen`, `seal` and `unlock`: what they write, what they refuse, and that they say nothing secret."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path

import pytest

from kdguard.export.onnx_files import sha256_of_model
from tests.runtime.box.release import Release, harden, make_large_release, make_release
from tests.runtime.commands.command_line import CommandLine, listing

SECRET = re.compile(
    r"AGE-SECRET-KEY-1[A-Z0-9]+|-----BEGIN PRIVATE KEY-----|kdguard-gate-secret-1|a2RndWFyZC1nYXRlLXNl", re.IGNORECASE
)


@pytest.fixture
def release(tmp_path: Path) -> Release:
    return make_release(tmp_path)


def test_the_whole_way(kdguard: CommandLine, release: Release, tmp_path: Path) -> None:
    """From keys to the teacher, with everything there is; no output, report or manifest holds a secret."""
    (tmp_path / "a.json").write_text('{"hint_taps": ["b"], "views": [0, 1]}')
    said = []

    def run(*arguments: object) -> dict[str, object]:
        report = tmp_path / f"report-{len(said)}.json"
        assert kdguard(*arguments, "--json", report) == 0, kdguard.err
        said.append(kdguard.out + kdguard.err + report.read_text())
        return json.loads(report.read_text())  # type: ignore[no-any-return]

    carol = run("keygen", "-o", tmp_path / "carol.key")
    assert carol["public_key"] == (tmp_path / "carol.key.pub").read_text().strip()
    assert (carol["kind"], carol["secret_file"], carol["public_file"]) == ("holder", "carol.key", "carol.key.pub")
    releaser = run("keygen", "--signing", "-o", tmp_path / "releaser.key")
    assert releaser["kind"] == "signing"
    gate = run("keygen", "--gate", "-o", tmp_path / "gate")
    assert gate["kind"] == "gate"
    gated, box = tmp_path / "gated.onnx", tmp_path / "gated.box"
    run("gate", release.hardened, "-o", gated, "--holder", tmp_path / "gate.pub")
    holders = ["--holders", tmp_path / "carol.key.pub", "--holder", release.public["alice"]]
    extras = ["--augmentation", tmp_path / "a.json", "--gate-key", tmp_path / "gate"]
    seal = ["seal", gated, "--teacher", release.teacher, *holders, *extras]
    sealed = run(*seal, "--sign-with", tmp_path / "releaser.key")
    assert sealed["holders"] == 2
    assert sealed["signed_by"] == releaser["public_key_sha256"]
    assert "hint_taps" not in json.dumps(sealed)
    assert box.is_file()
    out = tmp_path / "unlocked.onnx"
    opened = run(
        *("unlock", gated, "--key", tmp_path / "carol.key", "-o", out),
        *("--signed-by", tmp_path / "releaser.key.pub", "--gate-key-output", tmp_path / "gate2"),
    )
    assert out.read_bytes() == release.teacher.read_bytes()
    assert (tmp_path / "gate2").read_bytes() == (tmp_path / "gate").read_bytes()
    assert f"wrote {tmp_path / 'gate2'}, the gate's key, readable by you alone" in " ".join(said[-1].split())
    assert opened["teacher_sha256"] == sealed["teacher_sha256"] == sha256_of_model(out)
    assert opened["augmentation"] == {"hint_taps": ["b"], "views": [0, 1], "hint_weight": None}
    assert opened["gate_key"] is True
    assert "settings for training" in " ".join(said[-1].split())
    run("unlock", gated, "--key", tmp_path / "carol.key")
    assert "it holds a gate's key too: --gate-key-output FILE writes it" in " ".join(said[-1].split())
    assert not any(SECRET.search(text) for text in said)
    assert SECRET.search((tmp_path / "carol.key").read_text())


def test_unsigned_boxes_are_said_to_be(kdguard: CommandLine, release: Release, tmp_path: Path) -> None:
    seal = ["seal", release.hardened, "--teacher", release.teacher, "--holder", release.public["alice"]]
    assert kdguard(*seal) == 0
    assert "not signed" in kdguard.out
    unlock = ["unlock", release.hardened, "--key", release.key("alice")]
    assert kdguard(*unlock) == 0
    assert "it is not signed: anybody who knows your public key could have made it" in kdguard.out
    assert kdguard("keygen", "--signing", "-o", tmp_path / "r") == 0
    assert kdguard(*seal, "--sign-with", tmp_path / "r") == 0
    assert kdguard(*unlock) == 0
    assert "say with --signed-by whose it must be" in kdguard.out
    assert kdguard(*unlock, "--signed-by", tmp_path / "r.pub") == 0
    assert "signed by the key in" in kdguard.out


def test_a_signature_is_not_dropped_by_sealing_again(kdguard: CommandLine, release: Release, tmp_path: Path) -> None:
    seal = ["seal", release.hardened, "--teacher", release.teacher, "--holder", release.public["alice"]]
    signed = ["unlock", release.hardened, "--key", release.key("alice"), "--signed-by", tmp_path / "r.pub"]
    assert kdguard("keygen", "--signing", "-o", tmp_path / "r") == 0
    for _ in range(2):  # signed again, as where a holder is left out
        assert kdguard(*seal, "--sign-with", tmp_path / "r") == 0, kdguard.err
    before = release.box.read_bytes()
    line = kdguard.refuses(*seal)
    assert f"{release.box} is there already and may be signed" in line
    for option in ("--sign-with", "-o", "--unsigned"):
        assert option in line
    assert "contradict each other" in kdguard.refuses(*seal, "--sign-with", tmp_path / "r", "--unsigned")
    assert release.box.read_bytes() == before
    assert kdguard(*signed) == 0, kdguard.err
    assert kdguard(*seal, "-o", tmp_path / "other.box") == 0, kdguard.err
    assert kdguard(*seal, "--unsigned") == 0, kdguard.err
    assert "not signed" in kdguard.out
    assert "is not signed, and only a box of" in kdguard.refuses(*signed)


def test_keygen_refuses(kdguard: CommandLine, tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        assert kdguard("keygen", "-o", tmp_path / "k") == 0
    finally:
        os.umask(before)
    assert (tmp_path / "k").stat().st_mode & 0o777 == 0o600
    content = (tmp_path / "k").read_text()
    assert "never replaced" in kdguard.refuses("keygen", "-o", tmp_path / "k")
    assert "never replaced" in kdguard.refuses("keygen", "--signing", "-o", tmp_path / "k")
    (tmp_path / "x.pub").touch()
    assert "x.pub is there already" in kdguard.refuses("keygen", "-o", tmp_path / "x")
    assert "does not exist" in kdguard.refuses("keygen", "-o", tmp_path / "absent" / "k")
    for report in ("n", "n.pub"):
        assert "another output" in kdguard.refuses("keygen", "-o", tmp_path / "n", "--json", tmp_path / report)
    assert (tmp_path / "k").read_text() == content
    assert listing(tmp_path) == ["k", "k.pub", "x.pub"]


def test_seal_refuses(kdguard: CommandLine, release: Release, tmp_path: Path) -> None:
    alice = release.public["alice"]
    seal = ["seal", release.hardened, "--teacher", release.teacher]
    before = listing(tmp_path)
    assert "a box needs holders" in kdguard.refuses(*seal)
    assert "is named twice" in kdguard.refuses(*seal, "--holder", alice, "--holder", alice)
    assert "no public key of a holder" in kdguard.refuses(*seal, "--holder", "alice")
    typed = kdguard.refuses(*seal, "--holder", tmp_path / "alice.key.pub")
    assert typed.endswith("; a file with keys goes with --holders")
    secret = SECRET.search(release.key("alice").read_text())
    assert secret
    for arguments in (["--holder", secret[0]], ["--holders", release.key("alice")]):
        assert "that is a secret key" in kdguard.refuses(*seal, *arguments)
        assert not SECRET.search(kdguard.out + kdguard.err)
    one = ["--holder", alice]
    assert "no such file" in kdguard.refuses(*seal, "--holders", tmp_path / "absent")
    assert "no signing key" in kdguard.refuses(*seal, *one, "--sign-with", release.key("alice"))
    assert "that is the input" in kdguard.refuses(*seal, *one, "-o", release.teacher)
    assert "that is the input" in kdguard.refuses(*seal, *one, "-o", release.hardened)
    assert "another output" in kdguard.refuses(*seal, *one, "--json", release.box)
    assert "cannot be read" in kdguard.refuses(*seal, *one, "--augmentation", tmp_path / "absent")
    assert "give a file with a gate's secret" in kdguard.refuses(*seal, *one, "--gate-key", tmp_path / "absent")
    assert kdguard("keygen", "--gate", "-o", tmp_path / "gate") == 0
    assert "has no key gate that it could open" in kdguard.refuses(*seal, *one, "--gate-key", tmp_path / "gate")
    before = sorted([*before, "gate", "gate.pub"])
    swapped = ["seal", release.teacher, "--teacher", release.hardened, *one]
    assert "nothing is hardened in it" in kdguard.refuses(*swapped)
    missing = ["seal", tmp_path / "absent.onnx", "--teacher", release.teacher, *one]
    assert "absent.onnx: no such file" in kdguard.refuses(*missing)
    assert listing(tmp_path) == before


def test_unlock_refuses(kdguard: CommandLine, release: Release, tmp_path: Path) -> None:
    release.seal()
    out = tmp_path / "u.onnx"
    unlock = ["unlock", release.hardened, "-o", out, "--key"]
    alice = release.key("alice")
    before = listing(tmp_path)
    assert "not sealed to this key" in kdguard.refuses(*unlock, release.key("mallory"))
    assert "that is a public key" in kdguard.refuses(*unlock, tmp_path / "alice.key.pub")
    assert "no such file" in kdguard.refuses(*unlock, tmp_path / "absent")
    assert "is not signed" not in kdguard.refuses(*unlock, alice, "--signed-by", tmp_path / "alice.key.pub")
    assert "no such file; give the box" in kdguard.refuses(*unlock, alice, "--box", tmp_path / "absent")
    assert "that is the input" in kdguard.refuses(*unlock, alice, "--box", out, "--json", out.with_name("alice.key"))
    assert "holds no key for a gate" in kdguard.refuses(*unlock, alice, "--gate-key-output", tmp_path / "g")
    for target in (release.hardened, release.box, alice):
        assert "that is the input" in kdguard.refuses("unlock", release.hardened, "-o", target, "--key", alice)
    pickled = kdguard.refuses("unlock", release.hardened, "-o", tmp_path / "u.pt", "--key", alice)
    assert "name for a torch file" in pickled
    harden(release.teacher, release.hardened, ["b", "d"])
    assert "belongs to another model" in kdguard.refuses(*unlock, alice)
    assert listing(tmp_path) == before


def test_a_key_that_others_may_read_is_pointed_out(kdguard: CommandLine, release: Release) -> None:
    release.seal()
    unlock = ["unlock", release.hardened, "--key", release.key("alice")]
    assert kdguard(*unlock) == 0
    assert "chmod 600" not in kdguard.out
    release.key("alice").chmod(0o644)
    assert kdguard(*unlock) == 0
    assert "chmod 600" in kdguard.out
    kdguard.refuses("unlock", release.hardened, "--key", release.key("alice").with_name("alice.key.pub"))
    assert "chmod 600" not in kdguard.out, "a public key is no secret"


def test_a_gates_secret_that_others_may_read_is_pointed_out(
    kdguard: CommandLine, release: Release, tmp_path: Path
) -> None:
    gated = tmp_path / "gated.onnx"
    assert kdguard("keygen", "--gate", "-o", tmp_path / "g") == 0
    assert kdguard("gate", release.hardened, "-o", gated, "--holder", tmp_path / "g.pub") == 0
    keys = ("--holder", release.public["alice"], "--gate-key", tmp_path / "g", "--unsigned")
    for mode in (0o600, 0o644):
        (tmp_path / "g").chmod(mode)
        assert kdguard("seal", gated, "--teacher", release.teacher, *keys) == 0, kdguard.err
        assert ("chmod 600" in kdguard.out) == (mode == 0o644)


def test_another_teacher_is_asked_about(kdguard: CommandLine, release: Release, tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    other = make_large_release(tmp_path / "other")
    one = ["--holder", release.public["alice"]]
    assert kdguard("seal", release.hardened, "--teacher", other.teacher, *one) == 0
    assert "is this its teacher?" in kdguard.out
    assert kdguard("seal", release.hardened, "--teacher", release.teacher, *one, "--unsigned") == 0
    assert "is this its teacher?" not in kdguard.out
