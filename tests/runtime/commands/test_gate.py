"""`kdguard keygen --gate` and `kdguard gate`, and what other commands make of a gated model."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import numpy as np
import pytest

from kdguard.export.errors import UserError
from kdguard.export.model_card import ModelCard, write_card
from kdguard.export.onnx_files import load_onnx, save_onnx
from kdguard.graph_passes.insert_key_gate import MAX_HOLDERS
from kdguard.graph_passes.key_gate import KeyDigest, read_gate
from kdguard.runtime import open_model
from kdguard.runtime.box.gate_keys import DIGEST_WORD, make_gate_key, read_gate_digest, read_gate_secret
from tests.conftest import photograph
from tests.runtime.box.test_right_key import spoiled
from tests.runtime.commands.command_line import CommandLine, listing

IMAGE = photograph(40).astype(np.float32) / 255


@pytest.fixture
def hardened(kdguard: CommandLine, conv_net_file: Path, tmp_path: Path) -> Path:
    assert kdguard("harden", conv_net_file, "-o", tmp_path / "h.onnx", "--layers", "b,d", "--gain", 10) == 0, (
        kdguard.err
    )
    for name in ("alice", "bob"):
        assert kdguard("keygen", "--gate", "-o", tmp_path / f"{name}.gate") == 0, kdguard.err
    return tmp_path / "h.onnx"


def test_the_whole_way(
    kdguard: CommandLine, hardened: Path, conv_net_file: Path, pairs_folder: Path, tmp_path: Path
) -> None:
    gated, report = tmp_path / "gated.onnx", tmp_path / "gate.json"
    holders = [part for name in ("alice", "bob") for part in ("--holder", tmp_path / f"{name}.gate.pub")]
    assert kdguard("gate", hardened, "-o", gated, *holders, "--hints", "b:2", "--json", report) == 0, kdguard.err
    found = json.loads(report.read_text())
    assert (len(found["holders"]), found["hints"], found["driven"]) == (2, {"b": 2}, ["b", "d"])
    assert 0 < found["added_bytes"] < 300_000
    printed = kdguard.out + kdguard.err + report.read_text() + gated.read_bytes().hex()
    for name in ("alice", "bob"):
        secret = read_gate_secret(tmp_path / f"{name}.gate")
        assert secret.value.hex() not in printed
        assert open_model(gated, secret).hints(IMAGE)["b"].shape == (2, 40, 40)
    np.testing.assert_array_equal(open_model(gated).restore(IMAGE), open_model(hardened).restore(IMAGE))
    # What comes after takes it like the hardened model, its manifest included.
    manifest = json.loads((tmp_path / "gated.manifest.json").read_text())
    assert manifest["notes"][-1].startswith("gated: 2 keys")
    assert manifest["hardened_sha256"] == hashlib.sha256(gated.read_bytes()).hexdigest()
    said = {"hardened": "h.onnx", "holders": found["holders"], "hints": {"b": 2}, "driven": ["b", "d"], "views": []}
    assert manifest["gate"] == said
    more = {"gated_sha256": manifest["hardened_sha256"], "checked": True, "added_bytes": found["added_bytes"]}
    assert found == {**said, "gated": "gated.onnx", **more}
    data = ("--data", pairs_folder)
    assert kdguard("verify", conv_net_file, gated, *data) == 0, kdguard.err
    assert kdguard("inspect", gated, "--json", tmp_path / "inspect.json") == 0, kdguard.err
    assert f"key gate: holders {', '.join(found['holders'])}; a key switches off b, d; hints: b (rank 2)" in " ".join(
        kdguard.out.split()
    )
    del said["hardened"]
    assert json.loads((tmp_path / "inspect.json").read_text())["gate"] == said
    fast = ("--recipes", "output-l1,fitnets,strip", "--seeds", 1, "--steps", 2, "--tiles", 4)
    assert kdguard("attack", gated, "--teacher", conv_net_file, *data, *fast) == 0, kdguard.err
    assert kdguard("keygen", "-o", tmp_path / "alice.key") == 0
    sealed = ("seal", gated, "--teacher", conv_net_file, "--holders", tmp_path / "alice.key.pub")
    assert kdguard(*sealed) == 0, kdguard.err


def test_a_key_opens_an_ensemble(kdguard: CommandLine, hardened: Path, pairs_folder: Path, tmp_path: Path) -> None:
    gated, holder = tmp_path / "gated.onnx", ("--holder", tmp_path / "alice.gate.pub")
    assert kdguard("gate", hardened, "-o", gated, *holder, "--ensemble", pairs_folder) == 0, kdguard.err
    assert "gives the mean of 4 views" in " ".join(kdguard.out.split())
    assert json.loads((tmp_path / "gated.manifest.json").read_text())["gate"]["views"] == [0, 2, 4, 6]
    secret = read_gate_secret(tmp_path / "alice.gate")
    mean, spread = open_model(gated, secret).ensemble(IMAGE)
    assert (mean.shape, spread.shape) == ((40, 40, 3), (40, 40))
    assert kdguard("inspect", gated) == 0, kdguard.err
    assert "an ensemble of 4 views" in " ".join(kdguard.out.split())
    # No later command answers for a key; each takes the file as it is.
    assert kdguard("verify", hardened, gated, "--data", pairs_folder) == 0, kdguard.err


def test_a_gate_that_spoils_the_output_is_not_written(kdguard: CommandLine, hardened: Path, tmp_path: Path) -> None:
    write_card(model := spoiled(), ModelCard(task="denoising", input_name="image", output_name="restored"))
    save_onnx(model, tmp_path / "s.onnx")
    holder = ("--holder", tmp_path / "alice.gate.pub")
    assert "a right key would change the output" in kdguard.refuses(
        "gate", tmp_path / "s.onnx", "-o", tmp_path / "o.onnx", *holder, code=1
    )
    assert not (tmp_path / "o.onnx").exists()


def test_an_ensemble_of_nothing_is_refused(kdguard: CommandLine, hardened: Path, tmp_path: Path) -> None:
    before = listing(tmp_path)
    holder = ("--holder", tmp_path / "alice.gate.pub")
    assert kdguard("gate", hardened, "-o", tmp_path / "o.onnx", *holder, "--ensemble", tmp_path / "no") == 2
    assert "no such folder" in kdguard.err
    assert listing(tmp_path) == before


def test_a_holder_who_is_left_out_is_revoked(kdguard: CommandLine, hardened: Path, tmp_path: Path) -> None:
    out, hints = tmp_path / "next.onnx", ("--hints", "b")
    assert kdguard("gate", hardened, "-o", out, "--holder", tmp_path / "alice.gate.pub", *hints) == 0, kdguard.err
    alice, bob = (read_gate_secret(tmp_path / f"{name}.gate") for name in ("alice", "bob"))
    assert open_model(out, alice).hints(IMAGE)["b"].shape == (4, 40, 40)
    with pytest.raises(UserError, match="no hints for this key"):
        open_model(out, bob).hints(IMAGE)


def test_a_holder_whose_digest_is_everybodys(kdguard: CommandLine, hardened: Path, tmp_path: Path) -> None:
    (tmp_path / "zeros.pub").write_text(f"{DIGEST_WORD} {'00' * 144}\n")
    before = listing(tmp_path)
    for holders in (("zeros",), ("alice", "zeros")):
        given = [
            part for name in holders for part in ("--holder", tmp_path / f"{name}{'.gate' * (name == 'alice')}.pub")
        ]
        line = kdguard.refuses("gate", hardened, "-o", tmp_path / "g.onnx", "--hints", "b", *given)
        assert "zeros.pub: this is the digest of the key of zeros, which is no secret" in line
    assert listing(tmp_path) == before


def test_a_gated_model_is_neither_gated_nor_hardened_again(
    kdguard: CommandLine, hardened: Path, tmp_path: Path
) -> None:
    gated, alice = tmp_path / "gated.onnx", ("--holder", tmp_path / "alice.gate.pub")
    assert kdguard("gate", hardened, "-o", gated, *alice) == 0, kdguard.err
    before = listing(tmp_path)
    for holders in (alice, ("--holder", tmp_path / "bob.gate.pub")):
        assert "has a key gate already" in kdguard.refuses("gate", gated, "-o", tmp_path / "again.onnx", *holders)
    again = ("-o", tmp_path / "again.onnx", "--layers", "c")
    assert "has a key gate, which would not drive" in kdguard.refuses("harden", gated, *again)
    assert listing(tmp_path) == before


def test_a_model_that_nobody_hardened_may_give_hints(
    kdguard: CommandLine, hardened: Path, conv_net_file: Path, pairs_folder: Path, tmp_path: Path
) -> None:
    gated = tmp_path / "gated.onnx"
    alice = ("--holder", tmp_path / "alice.gate.pub")
    assert kdguard("gate", hardened, "-o", gated, *alice, "--hints", "b:1") == 0, kdguard.err
    assert "nothing is hardened in" not in kdguard.out
    gated = tmp_path / "gated_teacher.onnx"
    assert kdguard("gate", conv_net_file, "-o", gated, *alice, "--hints", "b:1") == 0, kdguard.err
    said = " ".join(kdguard.out.split())
    assert f"nothing is hardened in {conv_net_file}: whoever has the file has all of it" in said
    assert not (tmp_path / "gated_teacher.manifest.json").exists()
    assert open_model(gated, read_gate_secret(tmp_path / "alice.gate")).hints(IMAGE)["b"].shape == (1, 40, 40)
    assert kdguard("verify", conv_net_file, gated, "--data", pairs_folder) == 0, kdguard.err
    assert kdguard("inspect", gated) == 0, kdguard.err
    assert "a key switches off no layer; hints: b (rank 1)" in " ".join(kdguard.out.split())
    sealed = ("seal", gated, "--teacher", conv_net_file, "--holders", tmp_path / "alice.key.pub")
    assert kdguard("keygen", "-o", tmp_path / "alice.key") == 0
    assert "nothing is hardened in it" in kdguard.refuses(*sealed)


def test_the_most_holders(kdguard: CommandLine, hardened: Path, tmp_path: Path) -> None:
    for index in range(MAX_HOLDERS + 1):
        make_gate_key(tmp_path / f"{index}.gate")
    holders = [part for index in range(MAX_HOLDERS + 1) for part in ("--holder", tmp_path / f"{index}.gate.pub")]
    out = ("-o", tmp_path / "gated.onnx")
    assert "1 to 64 key holders, and 65 were given" in kdguard.refuses("gate", hardened, *out, *holders)
    assert not (tmp_path / "gated.onnx").exists()
    assert kdguard("gate", hardened, *out, *holders[:-2]) == 0, kdguard.err
    last = read_gate_secret(tmp_path / f"{MAX_HOLDERS - 1}.gate")
    gate = read_gate(load_onnx(tmp_path / "gated.onnx"))
    assert gate is not None
    assert KeyDigest.of(last) in gate.digests


def test_keygen_never_shows_a_secret(kdguard: CommandLine, tmp_path: Path) -> None:
    assert kdguard("keygen", "--gate", "-o", tmp_path / "k", "--json", tmp_path / "k.json") == 0, kdguard.err
    secret = read_gate_secret(tmp_path / "k").value.hex()
    shown = kdguard.out + kdguard.err + (tmp_path / "k.json").read_text() + (tmp_path / "k.pub").read_text()
    assert secret not in shown
    assert read_gate_digest(tmp_path / "k.pub").name in kdguard.out + kdguard.err
    assert (tmp_path / "k").stat().st_mode & 0o777 == 0o600
    assert "never replaced" in kdguard.refuses("keygen", "--gate", "-o", tmp_path / "k")


def test_refusals_leave_nothing(kdguard: CommandLine, hardened: Path, conv_net_file: Path, tmp_path: Path) -> None:
    before = listing(tmp_path)
    alice = tmp_path / "alice.gate.pub"
    out = ("-o", tmp_path / "g.onnx")
    for arguments, message in (
        ((hardened, *out), "a gate needs holders"),
        ((hardened, *out, "--holder", alice, "--holder", alice), "name each holder once"),
        ((hardened, *out, "--holder", tmp_path / "alice.gate"), "which nobody else may see"),
        ((hardened, *out, "--holder", tmp_path / "none.pub"), "no such file"),
        ((hardened, *out, "--holder", tmp_path), "cannot be read"),
        ((hardened, *out, "--holder", hardened), "not a text file"),
        ((hardened, *out, "--holder", alice, "--hints", "nothing_*"), "--hints 'nothing_*' matches none"),
        ((hardened, *out, "--holder", alice, "--hints", "b:17"), "rank 17 is not one of 1 to 16"),
        ((hardened, *out, "--holder", alice, "--hints", "b:1", "--hints", "b:2"), "'b' is named twice"),
        ((hardened, "-o", hardened, "--holder", alice), "that is the input"),
        ((hardened, "-o", alice, "--holder", alice), "that is the input"),
        ((hardened, "-o", tmp_path / "g.pt", "--holder", alice), "a name for a torch file"),
        ((conv_net_file, *out, "--holder", alice), "there is nothing for a key to open"),
    ):
        assert message in kdguard.refuses("gate", *arguments)
    assert "two kinds" in kdguard.refuses("keygen", "--gate", "--signing", "-o", tmp_path / "k")
    assert listing(tmp_path) == before
