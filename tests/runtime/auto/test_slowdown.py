"""The estimated slowdown: what the cost model says of every node, whoever asked for it."""

from __future__ import annotations

from pathlib import Path

import pytest

from kdguard.export.image_pairs import ImagePair, load_pairs
from kdguard.export.model_card import ModelCard
from kdguard.export.onnx_files import load_onnx
from kdguard.export.tasks import get_task
from kdguard.graph_passes.costs import count_costs, op_cost
from kdguard.graph_passes.insert_svd_perturb import InsertSvdPerturb, Site
from kdguard.graph_passes.op import SvdPerturbAttributes
from kdguard.runtime.auto.slowdown import estimate_slowdown
from kdguard.runtime.harden import HardenOptions, harden
from tests.conftest import make_conv_net

PLAIN = SvdPerturbAttributes(rank=2, gain=10.0)
VALUES = 8 * 48 * 48


@pytest.fixture
def pair(pairs_folder: Path) -> ImagePair:
    return load_pairs(pairs_folder, get_task("deraining"))[0]


@pytest.mark.parametrize(
    ("sites", "spent"),
    [
        ([], 0.0),
        ([Site("d", PLAIN)], op_cost(VALUES, 8, 2, paired=True)),
        ([Site("c", PLAIN, "in-path")], op_cost(VALUES, 8, 2, paired=False)),
        (
            [Site("b", PLAIN), Site("d", PLAIN, "in-path")],
            op_cost(VALUES, 8, 2, paired=True) + op_cost(VALUES, 8, 2, paired=False),
        ),
        # Between a convolution and the activation that it is fused with, half as much again.
        ([Site("a", PLAIN)], 1.5 * op_cost(VALUES, 8, 2, paired=True)),
    ],
)
def test_by_hand(card: ModelCard, pair: ImagePair, sites: list[Site], spent: float) -> None:
    clean = make_conv_net()
    hardened = InsertSvdPerturb(sites=sites)(clean).model if sites else clean
    total = count_costs(clean, {"image": (1, 3, 48, 48)}).total
    assert estimate_slowdown(hardened, card, pair) == pytest.approx(1 + spent / total)


@pytest.mark.parametrize("placement", ["paired", "in-path"])
def test_named_layers_with_a_given_gain_have_one(
    card: ModelCard, conv_net_file: Path, pairs_folder: Path, pair: ImagePair, tmp_path: Path, placement: str
) -> None:
    attributes = SvdPerturbAttributes(rank=2, gain=1.001)
    options = HardenOptions(["b"], placement=placement, attributes=attributes)  # type: ignore[arg-type]
    manifest = harden(conv_net_file, tmp_path / "h.onnx", options, data=pairs_folder)
    assert manifest.estimated_slowdown == estimate_slowdown(load_onnx(tmp_path / "h.onnx"), card, pair)
    assert manifest.estimated_slowdown > 1  # type: ignore[operator]
    without = harden(conv_net_file, tmp_path / "h2.onnx", options)
    assert without.estimated_slowdown is None
