"""The `box:` section: what its files hold is read once, before the long work."""

from __future__ import annotations

from pathlib import Path

import pytest

from kdguard.export.errors import UserError
from kdguard.export.onnx_files import load_onnx
from kdguard.graph_passes.key_gate import read_gate
from kdguard.graph_passes.key_gate.views import ensemble_views
from kdguard.runtime.box.gate_keys import make_gate_key
from kdguard.runtime.box.section import GATED_NAME, BoxSection, read_keys, write_box, write_gate
from kdguard.runtime.box.signing import make_signing_key
from kdguard.runtime.box.unlock import unlock
from tests.runtime.box.release import Release


def test_keys_that_change_during_a_run_change_nothing(release: Release, tmp_path: Path) -> None:
    signer, digest = make_signing_key(tmp_path / "r"), make_gate_key(tmp_path / "g")
    section = BoxSection(holders=Path("alice.key.pub"), sign_with=Path("r"), gate=[Path("g.pub")], hints=["b:2"])
    keys = read_keys(section, tmp_path)
    for file in section.files():
        (tmp_path / file).unlink()
    written = write_gate(keys, tmp_path, load_onnx(release.hardened), tmp_path)
    assert written is not None
    assert written[1].hints == {"b": 2}
    gate = read_gate(load_onnx(tmp_path / GATED_NAME))
    assert gate is not None
    assert gate.digests == (digest,)
    sealed = write_box(keys, tmp_path, "b")
    assert sealed is not None
    assert (sealed.hardened, sealed.holders, sealed.signed_by) == (GATED_NAME, 1, signer)
    opened = unlock(tmp_path / GATED_NAME, tmp_path / "gated.box", release.key("alice"))
    assert opened.augmentation.hint_taps == ["b"]


def test_a_key_that_others_may_read_is_pointed_out(
    release: Release, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    make_signing_key(tmp_path / "r")
    section = BoxSection(holders=Path("alice.key.pub"), sign_with=Path("r"))
    read_keys(section, tmp_path)
    assert "chmod 600" not in capsys.readouterr().out
    (tmp_path / "r").chmod(0o640)
    read_keys(section, tmp_path)
    assert "chmod 600 it" in " ".join(capsys.readouterr().out.split())


def test_what_is_not_asked_for_is_not_made(release: Release, tmp_path: Path) -> None:
    make_gate_key(tmp_path / "g")
    sealed_only = read_keys(BoxSection(holders=Path("alice.key.pub")), tmp_path)
    gated_only = read_keys(BoxSection(gate=[Path("g.pub")]), tmp_path)
    assert write_gate(sealed_only, tmp_path, load_onnx(release.hardened), tmp_path) is None
    assert write_box(gated_only, tmp_path, None) is None
    sealed = write_box(sealed_only, tmp_path, None)
    assert sealed is not None
    assert (sealed.hardened, sealed.signed_by) == ("hardened.onnx", None)
    with pytest.raises(UserError, match="that is a secret key"):
        read_keys(BoxSection(holders=Path("alice.key")), tmp_path)


def test_an_ensemble_is_chosen_on_calibration_images(release: Release, tmp_path: Path, pairs_folder: Path) -> None:
    make_gate_key(tmp_path / "g")
    keys = read_keys(BoxSection(gate=[Path("g.pub")], ensemble=True), tmp_path)
    written = write_gate(keys, tmp_path, load_onnx(release.hardened), pairs_folder)
    assert written is not None
    assert written[1].views == [0, 2, 4, 6]
    assert ensemble_views(load_onnx(tmp_path / GATED_NAME)) == (0, 2, 4, 6)
