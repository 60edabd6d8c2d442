"""Awkward graphs hardened end to end, fidelity included; what cannot be hardened says why."""

from __future__ import annotations

from pathlib import Path

import pytest

from kdguard.export.errors import UserError
from kdguard.export.model_card import CardOverrides, read_card
from kdguard.export.onnx_files import load_onnx, save_onnx
from kdguard.graph_passes.op import SvdPerturbAttributes
from kdguard.runtime import open_model
from kdguard.runtime.harden import HardenOptions, harden
from kdguard.runtime.manifest import Manifest
from tests.awkward_graphs import CASES, mystery_operator
from tests.conftest import photograph

EXTRA = {"extra input", "noise map"}


def harden_case(name: str, placement: str, gain: float, folder: Path, pairs: Path) -> Manifest:
    build, layers = CASES[name]
    save_onnx(build(), folder / "t.onnx")
    attributes = SvdPerturbAttributes(rank=2, gain=gain)
    return harden(
        folder / "t.onnx",
        folder / "h.onnx",
        HardenOptions(layers, attributes=attributes, placement=placement),  # type: ignore[arg-type]
        task="denoising",
        data=pairs,
        overrides=CardOverrides(value_range=(0.0, 1.0), extra_inputs={"level": (1.0,)} if name in EXTRA else {}),
    )


@pytest.mark.parametrize("name", CASES)
def test_paired(name: str, tmp_path: Path, pairs_folder: Path) -> None:
    manifest = harden_case(name, "paired", 10.0, tmp_path, pairs_folder)
    assert [entry.layer for entry in manifest.layers] == CASES[name][1]
    assert manifest.fidelity is not None
    assert manifest.fidelity.psnr_between_db > (55 if name == "fp16" else 100)
    for entry in manifest.layers:
        assert entry.relative_distortion is not None
        assert entry.relative_distortion > 1
    # The file speaks for itself: its card is all that is needed to run it.
    session = open_model(tmp_path / "h.onnx")
    assert session.card == read_card(load_onnx(tmp_path / "h.onnx"))
    assert session.restore(photograph(37) / 255).shape == (37, 37, 3)


@pytest.mark.parametrize("name", CASES)
def test_in_path(name: str, tmp_path: Path, pairs_folder: Path) -> None:
    manifest = harden_case(name, "in-path", 1.01, tmp_path, pairs_folder)
    assert [entry.layer for entry in manifest.layers] == CASES[name][1]
    assert manifest.fidelity is not None
    assert manifest.fidelity.psnr_between_db < 110
    assert manifest.fidelity.max_abs_difference > 0


def test_operators_that_nobody_has(tmp_path: Path, pairs_folder: Path) -> None:
    save_onnx(mystery_operator(), tmp_path / "t.onnx")
    options = HardenOptions(["b"], attributes=SvdPerturbAttributes(rank=2, gain=10.0))
    with pytest.raises(UserError, match=r"no operator acme\.vision::Mystery") as caught:
        harden(tmp_path / "t.onnx", tmp_path / "h.onnx", options, task="denoising", data=pairs_folder)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "h.onnx").exists()
    harden(tmp_path / "t.onnx", tmp_path / "h.onnx", options)  # where it runs is then the user's business
    with pytest.raises(UserError, match="'m' cannot be hardened: shape inference does not find its shape"):
        harden(tmp_path / "t.onnx", tmp_path / "h2.onnx", HardenOptions(["m"]))
