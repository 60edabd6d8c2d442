"""`kdguard keygen --gate` and `kdguard gate`, and what other commands make of a gated model."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from kdguard.export.onnx_files import load_onnx
from kdguard.graph_passes.key_gate import read_gate
from kdguard.runtime import open_model
from kdguard.runtime.box.gate_keys import read_gate_secret
from tests.conftest import photograph
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
    said = kdguard.out + kdguard.err + report.read_text() + gated.read_bytes().hex()
    for name in ("alice", "bob"):
        secret = read_gate_secret(tmp_path / f"{name}.gate")
        assert secret.value.hex() not in said
        assert open_model(gated, secret).hints(IMAGE)["b"].shape == (2, 40, 40)
    np.testing.assert_array_equal(open_model(gated).restore(IMAGE), open_model(hardened).restore(IMAGE))
    # What comes after takes it like the hardened model, its manifest included.
    assert json.loads((tmp_path / "gated.manifest.json").read_text())["notes"][-1].startswith("gated: 2 keys")
    data = ("--data", pairs_folder)
    assert kdguard("verify", conv_net_file, gated, *data) == 0, kdguard.err
    assert kdguard("inspect", gated) == 0, kdguard.err
    fast = ("--recipes", "output-l1,fitnets,strip", "--seeds", 1, "--steps", 2, "--tiles", 4)
    assert kdguard("attack", gated, "--teacher", conv_net_file, *data, *fast) == 0, kdguard.err
    assert kdguard("keygen", "-o", tmp_path / "alice.key") == 0
    sealed = ("seal", gated, "--teacher", conv_net_file, "--holders", tmp_path / "alice.key.pub")
    assert kdguard(*sealed) == 0, kdguard.err


def test_a_holder_who_is_left_out_is_revoked(kdguard: CommandLine, hardened: Path, tmp_path: Path) -> None:
    gated = tmp_path / "next.onnx"
    assert kdguard("gate", hardened, "-o", gated, "--holder", tmp_path / "alice.gate.pub") == 0, kdguard.err
    alice, bob = (read_gate_secret(tmp_path / f"{name}.gate") for name in ("alice", "bob"))
    gate = read_gate(load_onnx(gated))
    assert gate is not None
    assert len(gate.digests) == 1
    clean, hidden = (open_model(gated, key).session for key in (alice, bob))
    assert clean.provider == hidden.provider


def test_refusals_leave_nothing(kdguard: CommandLine, hardened: Path, conv_net_file: Path, tmp_path: Path) -> None:
    before = listing(tmp_path)
    alice = tmp_path / "alice.gate.pub"
    out = ("-o", tmp_path / "g.onnx")
    for arguments, message in (
        ((hardened, *out), "a gate needs holders"),
        ((hardened, *out, "--holder", alice, "--holder", alice), "name each holder once"),
        ((hardened, *out, "--holder", tmp_path / "alice.gate"), "which nobody else may see"),
        ((hardened, *out, "--holder", tmp_path / "none.pub"), "no such file"),
        ((hardened, *out, "--holder", alice, "--hints", "nothing_*"), "nothing_*"),
        ((hardened, "-o", hardened, "--holder", alice), "that is the input"),
        ((hardened, "-o", tmp_path / "g.pt", "--holder", alice), "a name for a torch file"),
        ((conv_net_file, *out, "--holder", alice), "there is nothing for a key to open"),
    ):
        assert message in kdguard.refuses("gate", *arguments)
    assert "two kinds" in kdguard.refuses("keygen", "--gate", "--signing", "-o", tmp_path / "k")
    assert listing(tmp_path) == before
