"""Unlocking: the teacher comes back byte for byte, or nothing does."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import numpy as np
import pytest

from kdguard.export import large_models
from kdguard.export.errors import UserError
from kdguard.export.onnx_files import hash_model, load_onnx, model_files, serialise, sha256_of_model
from kdguard.runtime.box.contents import Augmentation
from kdguard.runtime.box.signing import make_signing_key, read_signing_key
from kdguard.runtime.box.unlock import unlock, unlocked_model
from tests.conftest import photograph, run_onnx
from tests.runtime.box.release import (
    Release,
    change_weight,
    harden,
    make_large_release,
    make_release,
    rename_data,
)
from tests.runtime.commands.command_line import listing


def open_to(release: Release, output: Path | None, name: str = "alice", **settings: object) -> None:
    unlock(release.hardened, release.box, release.key(name), output, **settings)  # type: ignore[arg-type]


def refusal(release: Release, name: str = "alice", **settings: object) -> str:
    """What is said by the function that writes a file and by the one that does not; neither leaves anything."""
    before = listing(release.folder)
    with pytest.raises(UserError) as caught:
        open_to(release, release.folder / "unlocked.onnx", name, **settings)
    signed_by = {key: value for key, value in settings.items() if key == "signed_by"}
    with pytest.raises(UserError) as in_memory:
        unlocked_model(release.hardened, release.box, release.key(name), **signed_by)  # type: ignore[arg-type]
    assert str(in_memory.value) == str(caught.value)
    assert "\n" not in str(caught.value)
    assert listing(release.folder) == before
    return str(caught.value)


@pytest.mark.parametrize("name", ["alice", "bob"])
def test_every_holder_gets_the_same_bytes(release: Release, name: str) -> None:
    release.seal(augmentation=Augmentation(hint_taps=["b"]), gate_key=b"key")
    output = release.folder / "unlocked.onnx"
    before = os.umask(0)
    try:
        open_to(release, output, name, gate_key_output=release.folder / "gate")
    finally:
        os.umask(before)
    assert output.read_bytes() == release.teacher.read_bytes()
    assert (release.folder / "gate").read_bytes() == b"key"
    assert {path.stat().st_mode & 0o777 for path in (output, release.folder / "gate")} == {0o600}
    unlocked = unlocked_model(release.hardened, release.box, release.key(name))
    assert serialise(unlocked.model) == release.teacher.read_bytes()
    assert unlocked.contents.augmentation.hint_taps == ["b"]
    assert unlocked.contents.gate_key == b"key"
    assert unlocked.report.teacher_sha256 == sha256_of_model(release.teacher)


def test_without_an_output_it_only_checks(release: Release) -> None:
    release.seal()
    before = listing(release.folder)
    report = unlock(release.hardened, release.box, release.key("alice"))
    assert report.teacher is None
    assert report.teacher_sha256 == sha256_of_model(release.teacher)
    assert listing(release.folder) == before
    with pytest.raises(UserError, match="not sealed to this key"):
        unlock(release.hardened, release.box, release.key("mallory"))


def test_refitted_weights_come_from_the_box(release: Release) -> None:
    change_weight(release.hardened, release.hardened, "wc")
    release.seal()
    open_to(release, release.folder / "unlocked.onnx")
    assert (release.folder / "unlocked.onnx").read_bytes() == release.teacher.read_bytes()


@pytest.mark.parametrize("outside", [True, False])
def test_data_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, outside: bool) -> None:
    monkeypatch.setattr(large_models, "INLINE_LIMIT", 100_000 if outside else 2**28)
    release = make_large_release(tmp_path, 160)
    (tmp_path / "out").mkdir()
    release.seal()
    open_to(release, tmp_path / "out" / "unlocked.onnx")
    assert listing(tmp_path / "out") == ["unlocked.onnx", "weights.bin"]
    assert sha256_of_model(tmp_path / "out" / "unlocked.onnx") == sha256_of_model(release.teacher)
    assert (tmp_path / "out" / "weights.bin").stat().st_mode & 0o777 == 0o600
    if outside:
        with pytest.raises(UserError, match="too large to hold in memory"):
            unlocked_model(release.hardened, release.box, release.key("alice"))
        return
    model = unlocked_model(release.hardened, release.box, release.key("alice")).model
    assert hash_model(model) == hash_model(load_onnx(release.teacher))
    image = photograph(20).astype(np.float32).transpose(2, 0, 1)[None] / 255
    for ours, theirs in zip(
        run_onnx(model, image=image), run_onnx(load_onnx(release.teacher), image=image), strict=True
    ):
        np.testing.assert_array_equal(ours, theirs)


@pytest.mark.parametrize("location", ["deep/w.bin", "./deep//w.bin"])
def test_data_files_in_a_folder_of_their_own(tmp_path: Path, location: str) -> None:
    release = make_large_release(tmp_path)
    (release.teacher.parent / "deep").mkdir()
    (release.teacher.parent / "weights.bin").rename(release.teacher.parent / "deep" / "w.bin")
    rename_data(release.teacher, location)
    release.seal()
    (tmp_path / "out").mkdir()
    open_to(release, tmp_path / "out" / "unlocked.onnx")
    assert listing(tmp_path / "out") == ["deep", "deep/w.bin", "unlocked.onnx"]
    assert sha256_of_model(tmp_path / "out" / "unlocked.onnx") == sha256_of_model(release.teacher)
    model = unlocked_model(release.hardened, release.box, release.key("alice")).model
    assert hash_model(model) == hash_model(load_onnx(release.teacher))


def test_several_data_files_whose_spelling_changes_their_order(tmp_path: Path) -> None:
    release = make_large_release(tmp_path)
    folder = release.teacher.parent
    shutil.copy(folder / "weights.bin", folder / "z.bin")
    (folder / "weights.bin").rename(folder / "a.bin")
    with (folder / "z.bin").open("ab") as stream:
        stream.write(b"longer than the other")
    rename_data(release.teacher, "a.bin", "./z.bin")
    assert [path.name for path in model_files(release.teacher)] == ["t.onnx", "z.bin", "a.bin"]
    report = release.seal()
    assert report.teacher_sha256 == sha256_of_model(release.teacher)
    (tmp_path / "out").mkdir()
    open_to(release, tmp_path / "out" / "t.onnx")
    assert sha256_of_model(tmp_path / "out" / "t.onnx") == report.teacher_sha256
    for name in ("a.bin", "z.bin"):
        assert (tmp_path / "out" / name).read_bytes() == (folder / name).read_bytes()


def test_data_files_replace_nothing(tmp_path: Path) -> None:
    release = make_large_release(tmp_path)
    release.seal()
    out = tmp_path / "out"
    out.mkdir()
    (out / "weights.bin").symlink_to(tmp_path / "elsewhere")
    for output, reserved in (("u.onnx", ()), ("weights.bin", ()), ("u.onnx", (out / "weights.bin",))):
        with pytest.raises(UserError, match=r"data file 'weights.bin'.*give -o in an empty folder"):
            open_to(release, out / output, reserved=reserved)
        if output == "weights.bin":
            (out / "weights.bin").unlink()
    assert listing(out) == []
    assert not (tmp_path / "elsewhere").exists()


def test_flipped_bits(tmp_path: Path) -> None:
    """In every part of the file: age's header, its MAC, the nonce, each sealed piece, the last byte."""
    release = make_release(tmp_path, 48)
    change_weight(release.hardened, release.hardened, "wc")
    release.seal()
    good = release.box.read_bytes()
    header = good.index(b"\n", good.index(b"\n--- ") + 1) + 1
    assert len(good) > header + 65536 + 16
    places = [0, 10, 25, 40, 90, header - 10, header, header + 15, header + 16, header + 300]
    for place in [*places, header + 16 + 65535, header + 16 + 65536, len(good) - 17, len(good) - 1]:
        for bit in (0, 7):
            flipped = bytearray(good)
            flipped[place] ^= 1 << bit
            release.box.write_bytes(flipped)
            assert "damaged" in refusal(release), place
    release.box.write_bytes(good)
    open_to(release, None)


def test_cut_off_anywhere(tmp_path: Path) -> None:
    release = make_release(tmp_path, 48)
    change_weight(release.hardened, release.hardened, "wc")
    release.seal()
    good = release.box.read_bytes()
    header = good.index(b"\n", good.index(b"\n--- ") + 1) + 1
    for length in (0, 1, 21, 50, header - 1, header, header + 16, header + 20, header + 16 + 65552, len(good) - 1):
        release.box.write_bytes(good[:length])
        assert "damaged" in refusal(release), length
    for more in (b"\0", good):
        release.box.write_bytes(good + more)
        assert "damaged" in refusal(release)


def test_keys_and_boxes_that_do_not_fit(release: Release) -> None:
    release.seal(["alice"])
    assert "not sealed to this key" in refusal(release, "mallory")
    assert "not sealed to this key" in refusal(release, "bob")
    release.seal(["alice", "bob"])
    open_to(release, None, "bob")
    release.seal(["alice"])  # the next release leaves him out
    assert "not sealed to this key" in refusal(release, "bob")
    release.box.write_bytes(b"hello")
    assert "damaged" in refusal(release)
    release.box.unlink()
    assert "no such file; give the box" in refusal(release)
    release.key("alice").write_text("")
    assert "the file is empty" in refusal(release)
    release.key("alice").unlink()
    assert "no such file; give a file with a holder's secret key" in refusal(release)


def test_another_models_box(release: Release) -> None:
    release.seal()
    shutil.copy(release.hardened, release.folder / "kept.onnx")
    harden(release.teacher, release.hardened, ["b", "d"])
    assert "belongs to another model" in refusal(release)
    shutil.copy(release.folder / "kept.onnx", release.hardened)
    content = bytearray(release.hardened.read_bytes())
    content[len(content) // 2] ^= 1  # inside a weight
    release.hardened.write_bytes(content)
    assert "belongs to another model" in refusal(release)
    shutil.copy(release.teacher, release.hardened)
    assert "nothing is hardened in it" in refusal(release)
    release.hardened.unlink()
    assert "no such file; give the path of an ONNX model" in refusal(release)


def test_signatures(release: Release) -> None:
    for name in ("ours", "theirs"):
        make_signing_key(release.folder / name)
    ours, theirs = release.folder / "ours.pub", release.folder / "theirs.pub"
    release.seal()
    assert "is not signed" in refusal(release, signed_by=ours)
    assert unlock(release.hardened, release.box, release.key("alice")).signed_by is None
    release.seal(signing_key=read_signing_key(release.folder / "ours"))
    assert "is signed by another key" in refusal(release, signed_by=theirs)
    assert "that is a secret key" in refusal(release, signed_by=release.folder / "ours")
    report = unlock(release.hardened, release.box, release.key("alice"), signed_by=ours)
    assert report.signed_by
    assert report.signer_checked
    assert not unlock(release.hardened, release.box, release.key("alice")).signer_checked


@pytest.mark.parametrize("appears", ["gate", "weights.bin"])
def test_a_file_that_appears_meanwhile(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, appears: str) -> None:
    """In the place of the gate's key or of a data file: neither the model nor the other one is written."""
    release = make_large_release(tmp_path)
    release.seal(gate_key=b"key")
    out = tmp_path / "out"
    out.mkdir()
    monkeypatch.setattr("kdguard.runtime.box.unlock._check_model", lambda *_: (out / appears).write_text("mine"))
    with pytest.raises(UserError, match="is there already"):
        open_to(release, out / "u.onnx", gate_key_output=out / "gate")
    assert listing(out) == [appears]
    assert (out / appears).read_text() == "mine"


def test_the_gates_key_is_given_once_and_only_if_there_is_one(release: Release) -> None:
    release.seal()
    gate = release.folder / "gate"
    with pytest.raises(UserError, match="holds no key for a gate"):
        open_to(release, release.folder / "u.onnx", gate_key_output=gate)
    release.seal(gate_key=b"key")
    gate.write_text("mine")
    with pytest.raises(UserError, match="never replaced"):
        open_to(release, release.folder / "u.onnx", gate_key_output=gate)
    assert gate.read_text() == "mine"
    assert not (release.folder / "u.onnx").exists()
