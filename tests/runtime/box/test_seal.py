"""Sealing: what goes in, what is refused, and that nothing half-written is left."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import onnx
import pytest

from kdguard.export.errors import UserError
from kdguard.export.onnx_files import load_onnx, save_onnx, sha256_of_model
from kdguard.graph_passes.insert_key_gate import gate_model
from kdguard.graph_passes.op import SvdPerturbAttributes
from kdguard.runtime.box.contents import MAGIC, Augmentation, BoxContents
from kdguard.runtime.box.gate_keys import make_gate_key, read_gate_secret
from kdguard.runtime.box.keys import make_holder_key
from kdguard.runtime.box.seal import read_augmentation, read_gate_key, seal
from kdguard.runtime.box.signing import make_signing_key, read_signing_key
from kdguard.runtime.harden import HardenOptions
from kdguard.runtime.harden import harden as harden_file
from tests.conftest import ROOT, make_conv_net
from tests.runtime.box.release import Release, change_weight, harden, make_large_release, read_box, rename_data
from tests.runtime.commands.command_line import listing


def test_what_is_in_the_box(release: Release, tmp_path: Path) -> None:
    name = make_signing_key(tmp_path / "r")
    augmentation = Augmentation(hint_taps=["b"], views=[0, 3], hint_weight=0.25)
    report = release.seal(
        augmentation=augmentation, gate_key=b"\x00gate\xff", signing_key=read_signing_key(tmp_path / "r")
    )
    assert report.hardened_sha256 == sha256_of_model(release.hardened)
    assert report.teacher_sha256 == sha256_of_model(release.teacher)
    assert (report.holders, report.signed_by) == (2, name)
    assert report.sealed_bytes < report.teacher_bytes == release.teacher.stat().st_size
    contents = BoxContents.model_validate_json(read_box(release, "bob").removeprefix(MAGIC).splitlines()[0])
    assert contents.augmentation == augmentation
    assert contents.gate_key == b"\x00gate\xff"
    assert contents.hardened_sha256 == report.hardened_sha256
    assert len(set(contents.holders)) == 2


def test_nothing_of_it_is_legible_outside(release: Release) -> None:
    release.seal(augmentation=Augmentation(hint_taps=["b"]), gate_key=b"hunter2hunter2")
    box = release.box.read_bytes()
    for secret in (
        b"hunter2",
        b"hint_taps",
        sha256_of_model(release.hardened).encode(),
        *map(str.encode, release.public),
    ):
        assert secret not in box
    assert box.startswith(b"age-encryption.org/v1\n")
    assert box.count(b"-> X25519 ") == 2


def test_two_boxes_of_the_same_share_nothing(release: Release) -> None:
    release.seal()
    first = release.box.read_bytes()
    release.seal()
    second = release.box.read_bytes()
    assert first[-16:] != second[-16:]
    assert first.splitlines()[1] != second.splitlines()[1]


def test_models_that_cannot_be(release: Release, tmp_path: Path) -> None:
    holders, box = [release.public["alice"]], tmp_path / "b.box"
    before = listing(tmp_path)
    (hardened, teacher) = release.hardened, release.teacher
    cases = {
        "nothing is hardened in it": (teacher, teacher),
        "is the hardened model itself": (hardened, hardened),
        "absent.onnx: no such file": (tmp_path / "absent.onnx", teacher),
        "gone.onnx: no such file": (hardened, tmp_path / "gone.onnx"),
        "not an ONNX file": (hardened, release.key("alice")),
    }
    for line, (first, second) in cases.items():
        with pytest.raises(UserError, match=line):
            seal(first, second, box, holders)
    with pytest.raises(UserError, match="has no tensor 'x', which hint_taps names"):
        seal(hardened, teacher, box, holders, augmentation=Augmentation(hint_taps=["b", "x"]))
    assert listing(tmp_path) == before


def test_another_models_teacher_by_its_manifest(release: Release, tmp_path: Path) -> None:
    options = HardenOptions(["b"], attributes=SvdPerturbAttributes(rank=2, gain=10.0))
    harden_file(release.teacher, tmp_path / "hardened.onnx", options)
    change_weight(release.teacher, tmp_path / "other.onnx", "wc")
    with pytest.raises(UserError, match=r"was hardened from another teacher than .*other.onnx, by its manifest"):
        seal(tmp_path / "hardened.onnx", tmp_path / "other.onnx", release.box, [release.public["alice"]])
    assert not release.box.exists()
    release.seal()


def test_a_failure_on_the_way_leaves_the_old_box(release: Release, monkeypatch: pytest.MonkeyPatch) -> None:
    release.seal()
    old, before = release.box.read_bytes(), listing(release.folder)

    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("kdguard.runtime.box.contents.Hashes.line", stop)
    with pytest.raises(KeyboardInterrupt):
        release.seal()
    assert release.box.read_bytes() == old
    assert listing(release.folder) == before


def test_names_of_data_files_that_do_not_work_everywhere(tmp_path: Path) -> None:
    release = make_large_release(tmp_path)
    (release.teacher.parent / "weights.bin").rename(release.teacher.parent / "a\\b")
    for names in (["a\\b"], ["a\\b", "./a\\b"]):
        rename_data(release.teacher, *names)
        with pytest.raises(UserError, match="re-save it with plain ones"):
            release.seal()
    (release.teacher.parent / "a\\b").rename(release.teacher.parent / "ab.bin")
    rename_data(release.teacher, "ab.bin", "./ab.bin")
    with pytest.raises(UserError, match="re-save it with plain ones"):
        release.seal()
    rename_data(release.teacher, "./ab.bin")
    release.seal()


def test_more_data_files_than_a_box_takes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    release = make_large_release(tmp_path)
    monkeypatch.setattr("kdguard.runtime.box.seal.MOST_DATA_FILES", 0)
    with pytest.raises(UserError, match="has 1 data files; re-save it with all weights in one"):
        release.seal()


def test_augmentation_files(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    path.write_text('{"hint_taps": ["b"], "views": [0, 7]}')
    assert read_augmentation(path) == Augmentation(hint_taps=["b"], views=[0, 7])
    for text, line in {
        '{"views": [8]}': "views.0: 8 is too large; give 7 or less",
        '{"key": 1}': "it may hold hint_taps, views, hint_weight",
        '{"hint_weight": "much"}': "hint_weight: much is not a number",
        "": "a.json: is no valid JSON at line 1 column 0",
        "nonsense": "a.json: is no valid JSON at line 1 column 2",
        "[1]": "a.json: is no JSON object; it may hold",
    }.items():
        path.write_text(text)
        with pytest.raises(UserError) as caught:
            read_augmentation(path)
        assert line in str(caught.value)
    with pytest.raises(UserError, match="cannot be read: No such file"):
        read_augmentation(tmp_path / "absent")


@pytest.mark.parametrize("make", [make_gate_key, make_holder_key, make_signing_key])
def test_a_key_that_is_given_for_settings_is_not_quoted(tmp_path: Path, make: Callable[[Path], object]) -> None:
    make(tmp_path / "k")
    lines = (tmp_path / "k").read_text().splitlines()
    secret = next(line for line in lines if line.startswith(("kdguard-gate", "AGE-SECRET", "M"))).rpartition(" ")[2]
    digits = secret.translate({ord(letter): "7" for letter in "abcdef"})
    for content in ("\n".join(lines), secret, f'"{secret}"', f'["{secret}"]', digits, f'{{"key": "{secret}"}}'):
        (tmp_path / "k").write_text(content)
        with pytest.raises(
            UserError, match=r"k: (is no valid JSON at line|is no JSON object|key: no such field)"
        ) as caught:
            read_augmentation(tmp_path / "k")
        said = str(caught.value)
        assert not any(text[at : at + 8] in said for text in (secret, digits) for at in range(len(secret) - 7))


@pytest.mark.parametrize(
    "wrong", ["x", '{"%s": 1}', '{"views": "%s"}', '{"hint_weight": "%s"}', '["%s"]', '{"key": "%s"}']
)
def test_lines_about_settings_stay_short(tmp_path: Path, wrong: str) -> None:
    (tmp_path / "a").write_text(wrong.replace("%s", "y" * 100_000) if "%" in wrong else wrong * 100_000)
    with pytest.raises(UserError) as caught:
        read_augmentation(tmp_path / "a")
    assert len(str(caught.value)) < 300 + len(str(tmp_path))


@pytest.mark.skipif(not Path("/dev/zero").exists(), reason="this system has no endless file")
def test_settings_without_an_end(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="/dev/zero: too large for settings"):
        read_augmentation(Path("/dev/zero"))


def test_gate_key_files(release: Release, tmp_path: Path) -> None:
    """A gate's secret and nothing else, and one that opens this very gate."""
    digest = make_gate_key(tmp_path / "gate")
    make_gate_key(tmp_path / "other")
    make_holder_key(tmp_path / "holder")
    make_signing_key(tmp_path / "signing")
    gated = tmp_path / "gated.onnx"
    save_onnx(gate_model(load_onnx(release.hardened), [digest]), gated)
    assert read_gate_key(tmp_path / "gate", gated) == (tmp_path / "gate").read_bytes()
    for name, content in {"bytes": b"\x00 key", "empty": b"", "text": b"hunter2"}.items():
        (tmp_path / name).write_bytes(content)
    for name in ("gate.pub", "holder", "holder.pub", "signing", "signing.pub", "bytes", "empty", "text", "absent"):
        with pytest.raises(UserError, match=rf"{name}: .*give a file with a gate's secret, as `kdguard keygen --gate`"):
            read_gate_key(tmp_path / name, gated)
    with pytest.raises(UserError, match=r"other: that secret does not open the key gate of .*gated\.onnx"):
        read_gate_key(tmp_path / "other", gated)
    with pytest.raises(UserError, match=r"gate: .*hardened\.onnx has no key gate"):
        read_gate_key(tmp_path / "gate", release.hardened)


def test_a_gate_with_a_matrix_of_its_own(release: Release, tmp_path: Path) -> None:
    make_gate_key(tmp_path / "gate")
    secret = read_gate_secret(tmp_path / "gate")
    save_onnx(gate_model(load_onnx(release.hardened), [secret], seed=b"release 2"), tmp_path / "gated.onnx")
    assert read_gate_key(tmp_path / "gate", tmp_path / "gated.onnx") == (tmp_path / "gate").read_bytes()


def test_memory_does_not_grow_with_the_teacher(tmp_path: Path) -> None:
    """A sparse teacher of 300 MB after one of 3 MB, sealed and unlocked in one process."""
    script = """
import json, resource, sys
from pathlib import Path
from kdguard.runtime.box.keys import make_holder_key
from kdguard.runtime.box.seal import seal
from kdguard.runtime.box.unlock import unlock
root = Path(sys.argv[1])
public, peaks = make_holder_key(root / "k"), []
for name in ("small", "large"):
    folder = root / name
    report = seal(root / "h.onnx", folder / "t.onnx", folder / "b.box", [public])
    unlock(root / "h.onnx", folder / "b.box", root / "k", folder / "out" / "t.onnx")
    peaks.append(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
print(json.dumps({"peaks": peaks, "sealed": report.sealed_bytes}))
"""
    save_onnx(make_conv_net(), tmp_path / "plain.onnx")
    harden(tmp_path / "plain.onnx", tmp_path / "h.onnx")
    for name, size in (("small", 3_000_000), ("large", 300_000_000)):
        (tmp_path / name / "out").mkdir(parents=True)
        model = make_conv_net()
        tensor = model.graph.initializer.add(name="large", data_type=onnx.TensorProto.UINT8, dims=[size])
        tensor.data_location = onnx.TensorProto.EXTERNAL
        tensor.external_data.add(key="location", value="weights.bin")
        (tmp_path / name / "t.onnx").write_bytes(model.SerializeToString())
        with (tmp_path / name / "weights.bin").open("wb") as stream:
            stream.truncate(size)
    done = subprocess.run(
        [sys.executable, "-c", script, str(tmp_path)], capture_output=True, text=True, check=False, cwd=ROOT
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["sealed"] > 300_000_000
    small, large = found["peaks"]
    assert large - small < 30_000  # KiB, a tenth of the weights
