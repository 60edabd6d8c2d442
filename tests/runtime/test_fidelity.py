"""The two gates, each able to fail on its own."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import helper

from kdguard.export.errors import UserError
from kdguard.export.image_pairs import ImagePair, load_pairs
from kdguard.export.model_card import ModelCard
from kdguard.export.tasks import get_task
from kdguard.runtime.fidelity import FidelityReport, compare_outputs, measure_fidelity
from kdguard.runtime.session import RestorationSession
from tests.conftest import make_conv_net, make_model, photograph
from tests.runtime.report import made_up


def offset_model(offset: float) -> onnx.ModelProto:
    """restored = image + offset."""
    nodes = [helper.make_node("Add", ["image", "offset"], ["restored"])]
    return make_model(nodes, {"offset": np.array(offset, np.float32)})


def report_for(
    teacher: onnx.ModelProto, hardened: onnx.ModelProto, pairs: list[ImagePair], card: ModelCard, budget: float = 0.1
) -> FidelityReport:
    return measure_fidelity(
        RestorationSession(teacher, card), RestorationSession(hardened, card), pairs, "deraining", budget
    )[0]


@pytest.fixture
def grey_pairs() -> list[ImagePair]:
    """Degraded = clean + 0.05: a model that adds an offset has a known error."""
    clean = (photograph(32) / 510 + 0.25).astype(np.float32)
    return [ImagePair("grey", clean + np.float32(0.05), clean)]


def test_a_copy_passes_with_zero_loss(card: ModelCard, pairs_folder: Path) -> None:
    pairs = load_pairs(pairs_folder, get_task("deraining"))
    report = report_for(make_conv_net(), make_conv_net(), pairs, card)
    assert report.within_budget
    assert report.delta_psnr_db == 0
    assert report.psnr_between_db == 200
    assert report.n == 4
    assert report.failures() == []


def test_loss_over_budget_fails(card: ModelCard, grey_pairs: list[ImagePair]) -> None:
    # 0.05 off is 26.02 dB, 0.0505 off is 25.93 dB, 0.051 off is 25.85 dB.
    near = report_for(offset_model(0.0), offset_model(0.0005), grey_pairs, card)
    assert near.delta_psnr_db == pytest.approx(20 * np.log10(0.0505 / 0.05), abs=1e-3)
    assert near.within_budget
    far = report_for(offset_model(0.0), offset_model(0.001), grey_pairs, card)
    assert not far.within_budget
    assert "over the budget" in far.failures()[0]
    assert report_for(offset_model(0.0), offset_model(0.001), grey_pairs, card, budget=0.2).within_budget


def test_a_gain_in_psnr_does_not_excuse_another_output(card: ModelCard, grey_pairs: list[ImagePair]) -> None:
    """Moves towards the truth, far from the teacher: the first gate alone would pass it."""
    report = report_for(offset_model(0.0), offset_model(-0.04), grey_pairs, card)
    assert report.delta_psnr_db < -10
    assert not report.within_budget
    assert report.psnr_between_db == pytest.approx(-20 * np.log10(0.04), abs=1e-3)
    assert report.psnr_between_floor_db == pytest.approx(-20 * np.log10(0.05) + 16, abs=1e-3)
    assert "under the floor" in report.failures()[0]


def test_one_ruined_image_among_many_fails(card: ModelCard) -> None:
    """A mean of decibels with a ceiling would forgive it: the others are identical, 200 dB each."""
    clean = (photograph(32) / 510 + 0.25).astype(np.float32)
    pairs = [ImagePair(f"p{i}", clean + np.float32(0.05), clean) for i in range(7)]
    pairs.append(ImagePair("bright", clean + np.float32(0.7), clean))
    # Clips only the bright image, towards the truth.
    nodes = [helper.make_node("Min", ["image", "most"], ["restored"])]
    clipping = make_model(nodes, {"most": np.array(0.85, np.float32)})
    report = report_for(offset_model(0.0), clipping, pairs, card)
    assert report.delta_psnr_db < 0
    assert report.psnr_between_db > report.psnr_between_floor_db
    assert report.worst_margin_db < 10
    assert not report.within_budget
    assert "worst image" in report.failures()[0]


def test_a_perfect_teacher_can_be_copied(card: ModelCard) -> None:
    clean = (photograph(32) / 510 + 0.25).astype(np.float32)
    report = report_for(offset_model(0.0), offset_model(0.0), [ImagePair("same", clean, clean)], card)
    assert report.teacher.psnr == 200
    assert report.within_budget


def test_white_frames_do_not_ask_for_the_impossible(card: ModelCard) -> None:
    """Clipped, the teacher is exactly right on them; rounding far below visibility must still pass."""
    clean = (photograph(32) / 510 + 0.25).astype(np.float32)
    white = np.ones_like(clean)
    pairs = [ImagePair("white", white + np.float32(0.1), white), ImagePair("p", clean + np.float32(0.05), clean)]
    report = report_for(offset_model(0.0), offset_model(1e-6), pairs, card)
    assert report.within_budget, report.failures()
    assert not report_for(offset_model(0.0), offset_model(-0.2), pairs, card).within_budget


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_non_finite_outputs_fail(card: ModelCard, grey_pairs: list[ImagePair], value: float) -> None:
    report = report_for(offset_model(0.0), offset_model(value), grey_pairs, card)
    assert not report.finite
    assert not report.within_budget
    report.model_dump_json()


def test_worst_pixel_is_polygraphys() -> None:
    a = np.zeros((4, 4, 3), np.float32)
    b = a.copy()
    b[1, 2, 0] = 0.25
    assert compare_outputs([a, a], [a, b]) == (True, 0.25)


def test_images_too_small_and_wrong_sizes(card: ModelCard) -> None:
    tiny = [ImagePair("tiny.png", np.zeros((8, 40, 3), np.float32), np.zeros((8, 40, 3), np.float32))]
    with pytest.raises(UserError, match="too small to score"):
        report_for(offset_model(0.0), offset_model(0.0), tiny, card)
    scaled = [ImagePair("big.png", np.zeros((20, 20, 3), np.float32), np.zeros((40, 40, 3), np.float32))]
    with pytest.raises(UserError, match="right model"):
        report_for(offset_model(0.0), offset_model(0.0), scaled, card)


def test_contract_fields(card: ModelCard, grey_pairs: list[ImagePair]) -> None:
    fields = report_for(offset_model(0.0), offset_model(0.0), grey_pairs, card).model_dump()
    assert {
        "n",
        "teacher",
        "hardened",
        "delta_psnr_db",
        "delta_ssim",
        "psnr_between_db",
        "psnr_between_floor_db",
        "budget_db",
        "within_budget",
    } <= fields.keys()
    assert fields["teacher"].keys() == {"psnr", "ssim"}


def test_a_budget_of_zero_asks_for_quality_and_not_for_bits() -> None:
    def report(loss: float) -> FidelityReport:
        return made_up.fidelity(loss).model_copy(update={"budget_db": 0.0})

    assert report(5e-5).keeps_budget
    assert report(-1.0).keeps_budget
    assert report(5e-5).failures() == []
    assert not report(2e-4).keeps_budget
    assert "over the budget of 0 dB" in report(2e-4).failures()[0]
