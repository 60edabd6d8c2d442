"""docs/published-box.md: both values of lambda, and ours beside them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from kdguard.runtime.defences import box_losses
from tests.conftest import ROOT
from tests.docs.test_authorised import record, tables

__all__ = ["tables"]

Scores = dict[tuple[str, str], Sequence[float]]


def test_the_weights_are_those_of_the_code() -> None:
    page = (ROOT / "docs" / "published-box.md").read_text()
    assert (box_losses.DISTURBED, box_losses.AUGMENTED) == (0.5, 1), "the page says half, and nothing for one"
    for stated in (
        f"{box_losses.KEPT:g} d(T'(x), T(x))",
        f"{box_losses.KEYED:g} d(T'(x'), T(x))",
        "-half the mean over the layers",
        "| d(T'(x'), y)",
    ):
        assert stated in page, stated


def test_what_keyed_inputs_are_answered_with(tmp_path: Path, tables: dict[str, Any]) -> None:
    folder = tmp_path / "prior_defences"
    folder.mkdir()
    assert "--defence safe-distillation-box-0.5 --defence safe-distillation-box`" in tables["part"](
        "published box", tmp_path
    )
    row = {"subject": "denoising", "defence": "safe-distillation-box", "strength": 0.25, "teacher_db": 31.0}
    row |= {"test_loss_db": 0.05, "keyed_clean_db": 28.0, "keyed_db": 28.5}
    (folder / "a.json").write_text(json.dumps({"results": [row]}))
    weak = {"subject": "denoising", "defence": "safe-distillation-box-0.5", "strength": None}
    (folder / "b.json").write_text(json.dumps({"results": [weak, {"subject": "denoising", "defence": "other"}]}))
    _, _, half, most = tables["part"]("published box", tmp_path).splitlines()
    assert half == "| denoising | 0.5 | none holds | - | - | - | - |"
    assert most == "| denoising | 0.9 | 0.250 | 31.00 dB | 0.050 dB | 28.00 dB | 28.50 dB |"


def test_thieves_and_key_holders_of_both(tmp_path: Path, tables: dict[str, Any]) -> None:
    (tmp_path / "red_team").mkdir()
    assert "Not recorded yet" in tables["part"]("published box's students", tmp_path)
    clean: Scores = {("output-l1", "clean"): [30.0, 31.0, 32.0], ("fitnets", "clean"): [29.0, 30.0, 31.0]}
    boxed: Scores = {("fitnets", "hardened"): [28.5, 29.5, 30.5], ("keyed-answers", "hardened"): [27.0, 28.0, 29.0]}
    record(tmp_path, "denoising", clean | boxed, defence="safe-distillation-box")
    ours: Scores = {("fitnets", "hardened"): [25.0, 26.0, 27.0]}
    record(tmp_path, "denoising", clean | ours)
    record(tmp_path, "denoising", {("authorised", "clean"): [30.5, 31.5, 32.5]})
    # Nobody attacked a published box there.
    record(tmp_path, "deraining", clean | ours)
    _, _, published, own = tables["part"]("published box's students", tmp_path).splitlines()
    assert published.split(" | ")[1:] == [
        "safe-distillation-box", "not run", "0.50 ± 0.00 dB", "not run", "-3.00 ± 0.00 dB |",
    ]  # fmt: skip
    assert own.split(" | ")[1:] == ["kdguard harden", "not run", "4.00 ± 0.00 dB", "not run", "0.50 ± 0.00 dB |"]
