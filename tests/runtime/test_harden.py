"""Hardening a file: what is written, what the manifest says, and that failure writes nothing."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from kdguard.export.errors import GateFailedError, UserError
from kdguard.export.files import sha256_of_file
from kdguard.export.image_pairs import load_pairs
from kdguard.export.model_card import read_card
from kdguard.export.onnx_files import load_onnx, save_onnx
from kdguard.export.tasks import get_task
from kdguard.graph_passes.inventory import hardened_layers
from kdguard.graph_passes.op import SvdPerturbAttributes
from kdguard.runtime.harden import HardenOptions, harden, manifest_path
from kdguard.runtime.session import expose_taps
from kdguard.runtime.strip import StripReport, measure_strip
from tests.conftest import make_conv_net, run_onnx

STRONG = SvdPerturbAttributes(rank=2, gain=10.0)


def test_files_and_manifest(conv_net_file: Path, pairs_folder: Path, tmp_path: Path) -> None:
    output = tmp_path / "hardened.onnx"
    manifest = harden(conv_net_file, output, HardenOptions(["b", "d"], attributes=STRONG), data=pairs_folder)
    written = json.loads(manifest_path(output).read_text())
    assert written == manifest.model_dump(mode="json")
    assert written["teacher_sha256"] == sha256_of_file(conv_net_file)
    assert written["hardened_sha256"] == sha256_of_file(output)
    assert [(e["layer"], e["op_type"], e["placement"], e["rank"], e["gain"]) for e in written["layers"]] == [
        ("b", "Relu", "paired", 2, 10.0),
        ("d", "Add", "paired", 2, 10.0),
    ]
    # Gain 10 moves a map by 9 times the norm of its two largest singular components.
    pairs = load_pairs(pairs_folder, get_task("deraining"))
    for entry in written["layers"]:
        tap = expose_taps(load_onnx(conv_net_file), [entry["layer"]])
        maps = [run_onnx(tap, image=pair.degraded.transpose(2, 0, 1)[None].copy())[1] for pair in pairs]
        shares = []
        for features in maps:
            values = np.linalg.svd(features[0].reshape(8, -1), compute_uv=False)
            shares.append(9 * np.linalg.norm(values[:2]) / np.linalg.norm(values))
        assert entry["relative_distortion"] == pytest.approx(float(np.mean(shares)), rel=1e-3)
    assert abs(written["measured_loss_db"]) < 1e-3
    assert written["fidelity"]["within_budget"]
    assert read_card(load_onnx(output)) == read_card(load_onnx(conv_net_file))


@pytest.mark.parametrize(("count", "refits"), [(6, True), (3, False)])
def test_an_attacker_refits_on_images_that_he_is_not_scored_on(
    count: int,
    refits: bool,
    conv_net_file: Path,
    write_noisy_pairs: Callable[[Path, int], Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """With fewer than four images there are none left to refit on."""
    given: list[Sequence[np.ndarray]] = []

    def recorded(*arguments: Any) -> StripReport:
        *_, pairs, unlabeled = arguments
        given.extend(([pair.degraded for pair in pairs], unlabeled))
        return measure_strip(*arguments)

    monkeypatch.setattr("kdguard.runtime.harden.measure_strip", recorded)
    data = write_noisy_pairs(tmp_path / "data", count)
    harden(conv_net_file, tmp_path / "h.onnx", HardenOptions(placement="paired"), data=data)
    scored, refitted = ({image.tobytes() for image in images} for images in given)
    assert scored
    assert bool(refitted) == refits
    assert not scored & refitted


def test_without_data_nothing_is_claimed(conv_net_file: Path, tmp_path: Path) -> None:
    manifest = harden(conv_net_file, tmp_path / "h.onnx", HardenOptions(["b"], attributes=STRONG))
    assert manifest.fidelity is None
    assert manifest.measured_loss_db is None
    assert manifest.layers[0].relative_distortion is None


def test_the_teacher_is_never_overwritten(conv_net_file: Path) -> None:
    before = conv_net_file.read_bytes()
    with pytest.raises(UserError, match="that is the input"):
        harden(
            conv_net_file,
            conv_net_file.parent / ".." / conv_net_file.parent.name / "teacher.onnx",
            HardenOptions(["b"]),
        )
    assert conv_net_file.read_bytes() == before


def test_gate_failure_writes_nothing(conv_net_file: Path, pairs_folder: Path, tmp_path: Path) -> None:
    before = sorted(p.name for p in tmp_path.iterdir())
    with pytest.raises(GateFailedError, match="nothing was written"):
        harden(
            conv_net_file,
            tmp_path / "h.onnx",
            HardenOptions(["b", "d"], placement="in-path", attributes=STRONG),
            data=pairs_folder,
        )
    assert sorted(p.name for p in tmp_path.iterdir()) == before


def test_foreign_model_gets_a_card(tmp_path: Path) -> None:
    save_onnx(make_conv_net(), tmp_path / "foreign.onnx")
    harden(tmp_path / "foreign.onnx", tmp_path / "h.onnx", HardenOptions(["b"], attributes=STRONG), task="dehazing")
    card = read_card(load_onnx(tmp_path / "h.onnx"))
    assert card is not None
    assert card.task == "dehazing"
    with pytest.raises(UserError, match="does not say what it restores"):
        harden(tmp_path / "foreign.onnx", tmp_path / "h2.onnx", HardenOptions(["b"], attributes=STRONG), data=tmp_path)


def test_adding_layers_measures_only_those(conv_net_file: Path, pairs_folder: Path, tmp_path: Path) -> None:
    harden(conv_net_file, tmp_path / "once.onnx", HardenOptions(["b"], attributes=STRONG))
    manifest = harden(
        tmp_path / "once.onnx", tmp_path / "more.onnx", HardenOptions(["d"], attributes=STRONG), data=pairs_folder
    )
    change = {entry.layer: entry.relative_distortion for entry in manifest.layers}
    assert change["b"] is None
    assert change["d"] is not None
    assert change["d"] > 1


def test_manifest_names_do_not_collide() -> None:
    names = {manifest_path(Path(name)).name for name in ("m.onnx", "m.v1", "m.v2", "m")}
    assert names == {"m.manifest.json", "m.v1.manifest.json", "m.v2.manifest.json"}


def test_hardening_the_hardened_gives_the_same_file(conv_net_file: Path, tmp_path: Path) -> None:
    options = HardenOptions(["b"], attributes=STRONG)
    harden(conv_net_file, tmp_path / "once.onnx", options)
    manifest = harden(tmp_path / "once.onnx", tmp_path / "twice.onnx", options)
    assert (tmp_path / "once.onnx").read_bytes() == (tmp_path / "twice.onnx").read_bytes()
    assert [entry.layer for entry in manifest.layers] == ["b"]
    assert len(hardened_layers(load_onnx(tmp_path / "twice.onnx"))) == 1
