"""docs/key-gate.md states the parameters of the code, and its example runs."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Callable
from math import log2
from pathlib import Path

import numpy as np
import pytest

from kdguard.export.model_card import ModelCard, write_card
from kdguard.export.onnx_files import save_onnx
from kdguard.graph_passes.insert_key_gate import MAX_HOLDERS
from kdguard.graph_passes.insert_svd_perturb import InsertSvdPerturb
from kdguard.graph_passes.key_gate.lattice_hash import KEY_BITS, MODULUS, RESIDUES
from kdguard.graph_passes.layers import rename_tensors
from kdguard.graph_passes.op import SvdPerturbAttributes
from tests.conftest import ROOT, make_conv_net
from tests.graph_passes.test_insert_key_gate import IMAGE, Running
from tests.runtime.commands.command_line import CommandLine

GUIDE = (ROOT / "docs" / "key-gate.md").read_text()
FLAT = " ".join(GUIDE.split())


class Session:
    """As onnxruntime's, for the gated model that the example makes."""

    def __init__(self, namespace: dict[str, object]) -> None:
        self._namespace = namespace
        self.answers: list[np.ndarray] = []

    def run(self, _: None, feed: dict[str, np.ndarray]) -> None:
        self.answers = Running(self._namespace["gated"])(feed["image"], feed["kdguard_key"])  # type: ignore[arg-type]


def test_the_example_runs() -> None:
    model = make_conv_net()
    rename_tensors(model.graph.node, {"b": "relu_13"})
    hardened = InsertSvdPerturb(["d"], SvdPerturbAttributes(gain=10.0))(model).model
    block = re.findall(r"```python\n(.*?)```", GUIDE, re.DOTALL)[0]
    namespace: dict[str, object] = {"hardened": hardened, "image": IMAGE}
    namespace["session"] = session = Session(namespace)
    exec(block, namespace)
    assert session.answers[1].shape == (1, 4, 40, 40)


def test_the_commands_and_what_opens_their_file_run(
    kdguard: CommandLine,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    write_noisy_pairs: Callable[[Path, int], Path],
) -> None:
    """As they stand; bob makes his key like alice."""
    monkeypatch.chdir(tmp_path)
    write_noisy_pairs(tmp_path / "calibration", 2)
    model = make_conv_net()
    rename_tensors(model.graph.node, {"b": "relu_13"})
    write_card(model, ModelCard(task="deraining", input_name="image", output_name="restored"))
    save_onnx(InsertSvdPerturb(["d"], SvdPerturbAttributes(gain=10.0))(model).model, tmp_path / "hardened.onnx")
    assert kdguard("keygen", "--gate", "-o", "bob.gate") == 0, kdguard.err
    for block in re.findall(r"```bash\n(.*?)```", GUIDE, re.DOTALL):
        for line in block.splitlines():
            assert kdguard(*shlex.split(line)[1:]) == 0, kdguard.err
    namespace: dict[str, object] = {"image": np.moveaxis(IMAGE[0], 0, -1)}
    exec(re.findall(r"```python\n(.*?)```", GUIDE, re.DOTALL)[1], namespace)
    assert namespace["hints"]["relu_13"].shape == (2, 40, 40)  # type: ignore[index]
    assert namespace["spread"].shape == (40, 40)  # type: ignore[attr-defined]


def test_parameters_are_those_of_the_code() -> None:
    assert f"n = {KEY_BITS}, m = {RESIDUES}, q = {MODULUS}" in FLAT
    assert f"a digest of {RESIDUES} bytes, up to {MAX_HOLDERS} of them" in FLAT
    digest_bits = RESIDUES * log2(MODULUS)
    for stated in (
        f"{MODULUS}^{RESIDUES} = 2^{digest_bits:.0f} digests",
        f"digest is 2^{KEY_BITS - digest_bits:.0f}",
        f"opens one of {MAX_HOLDERS} is 2^{log2(MAX_HOLDERS) - digest_bits:.0f}",
        f"{KEY_BITS}/{digest_bits:.0f} = {KEY_BITS / digest_bits:.2f}",
    ):
        assert stated in FLAT, stated


def test_figures_are_those_that_were_recorded() -> None:
    results = ROOT / "benchmarks" / "results"
    counting = json.loads((results / "key_gate_hardness.json").read_text())["counting"]
    assert f"centred norm, {counting['centred_key_norm']:.1f}, is nearly" in FLAT
    assert f"Gaussian heuristic {counting['gaussian_heuristic']:.1f}" in FLAT
    rows = json.loads((results / "key_gate.json").read_text())["results"]
    assert all(row["bit_equal_without_key"] for row in rows)
    assert max(row["bytes_added_hint"] for row in rows) <= 300_000
    assert max(row["gate_alone_us"] / row["ungated_ms"] for row in rows) / 1000 <= 0.01


def test_response_times_say_what_the_text_says_of_them() -> None:
    """Six differences are tested on two paths together, so each at a sixth of 5 %."""
    content = json.loads((ROOT / "benchmarks" / "results" / "service_timing.json").read_text())
    assert f"a gate for {content['holders']} holders, images of {content['image'][0]}x{content['image'][1]}" in FLAT
    before, after = (content[f"load_average_{when}"][0] for when in ("before", "after"))
    assert f"a load average of {before:.1f} before and {after:.1f} after" in FLAT
    for row in content["results"]:
        assert row["friedman_p_of_well_formed"] > 0.05 / 2
        entries = {entry["caller"]: entry for entry in row["callers"]}
        for name in ("unknown again", "one bit off", "revoked"):
            assert entries[name]["p"] > 0.05 / 6, name
        assert entries["right key"]["difference_us"]["low"] > 0
