"""docs/key-gate.md states the parameters of the code, and its example runs."""

from __future__ import annotations

import json
import re
from math import log2

import numpy as np

from kdguard.graph_passes.insert_key_gate import MAX_HOLDERS
from kdguard.graph_passes.insert_svd_perturb import InsertSvdPerturb
from kdguard.graph_passes.key_gate.lattice_hash import KEY_BITS, MODULUS, RESIDUES
from kdguard.graph_passes.layers import rename_tensors
from kdguard.graph_passes.op import SvdPerturbAttributes
from tests.conftest import ROOT, make_conv_net
from tests.graph_passes.test_insert_key_gate import IMAGE, Running

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
    (block,) = re.findall(r"```python\n(.*?)```", GUIDE, re.DOTALL)
    namespace: dict[str, object] = {"hardened": hardened, "image": IMAGE}
    namespace["session"] = session = Session(namespace)
    exec(block, namespace)
    assert session.answers[1].shape == (1, 4, 40, 40)


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
