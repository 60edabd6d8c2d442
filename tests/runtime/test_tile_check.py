"""Tiles against the whole image: paired nodes change nothing there, in-path nodes do."""

from __future__ import annotations

import onnx
import pytest

from kdguard.export.model_card import ModelCard
from kdguard.graph_passes.insert_svd_perturb import InsertSvdPerturb
from kdguard.graph_passes.op import SvdPerturbAttributes
from kdguard.graph_passes.op.conventions import Modulation
from kdguard.graph_passes.op.keys import draw_key
from kdguard.runtime.tile_check import TilingReport, measure_tiling
from tests.runtime.image_pairs import noisy_pairs

PLAIN = SvdPerturbAttributes(rank=2, gain=10.0)
TAIL = PLAIN.model_copy(
    update={"centred": True, "modulation": Modulation.TAIL_SIGN, "pattern": draw_key(Modulation.TAIL_SIGN, 0)}
)


def check(model: onnx.ModelProto, card: ModelCard, placement: str, attributes: SvdPerturbAttributes) -> TilingReport:
    hardened = InsertSvdPerturb(["b", "d"], attributes, placement=placement)(model).model  # type: ignore[arg-type]
    report = measure_tiling(model, hardened, card, noisy_pairs(2))
    assert report is not None
    return report


@pytest.mark.parametrize("attributes", [PLAIN, TAIL])
def test_paired_nodes_fit_together_as_the_clean_teacher_does(
    conv_net: onnx.ModelProto, card: ModelCard, attributes: SvdPerturbAttributes
) -> None:
    report = check(conv_net, card, "paired", attributes)
    assert report.clean_db > 120  # three 3x3 convolutions see less than the overlap
    assert report.hardened_db > 110
    assert not report.seams


def test_in_path_nodes_show_seams(conv_net: onnx.ModelProto, card: ModelCard) -> None:
    """Every tile has singular vectors of its own."""
    report = check(conv_net, card, "in-path", SvdPerturbAttributes(rank=2, gain=2.0))
    assert report.hardened_db < 60
    assert report.seams


def test_a_difference_in_rounding_is_no_seam() -> None:
    assert not TilingReport(n=1, tile=32, overlap=4, clean_db=200.0, hardened_db=118.0).seams
    assert TilingReport(n=1, tile=32, overlap=4, clean_db=200.0, hardened_db=98.0).seams
    assert not TilingReport(n=1, tile=32, overlap=4, clean_db=50.0, hardened_db=49.1).seams


def test_models_of_one_size_are_always_tiled(conv_net: onnx.ModelProto, card: ModelCard) -> None:
    fixed = card.model_copy(update={"fixed_size": (32, 32)})
    assert measure_tiling(conv_net, conv_net, fixed, noisy_pairs(1)) is None
