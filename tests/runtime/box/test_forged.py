"""Boxes that somebody else than the releaser made, whole and well encrypted: refused, and nothing is written."""

from __future__ import annotations

from hashlib import sha256
from pathlib import Path

import onnx
import pytest

from kdguard.export.errors import UserError
from kdguard.runtime.box.contents import Piece, SealedFile
from kdguard.runtime.box.keys import fingerprint
from kdguard.runtime.box.signing import make_signing_key, read_signing_key
from kdguard.runtime.box.unlock import unlocked_model
from tests.runtime.box.release import (
    Release,
    box_bytes,
    contents_of,
    make_release,
    read_box,
    write_box,
)
from tests.runtime.box.test_unlock import open_to, refusal
from tests.runtime.commands.command_line import listing


def with_outside_weights(release: Release, **place: str) -> tuple[bytes, bytes]:
    """The teacher's file with the weight `wc` somewhere else, and that weight."""
    model = onnx.load_model(str(release.teacher))
    (tensor,) = (tensor for tensor in model.graph.initializer if tensor.name == "wc")
    weights = tensor.raw_data
    tensor.ClearField("raw_data")
    tensor.data_location = onnx.TensorProto.EXTERNAL
    for key, value in place.items():
        tensor.external_data.add(key=key, value=value)
    return model.SerializeToString(), weights


@pytest.mark.parametrize("outside", [{"planted.bin": b"x"}, {"planted.bin": b""}])
def test_a_forged_box_brings_no_file_that_the_model_does_not_use(release: Release, outside: dict[str, bytes]) -> None:
    data = release.teacher.read_bytes()
    parts = {name: SealedFile(pieces=[Piece(length=len(c))] if c else []) for name, c in outside.items()}
    digests = [sha256(content).hexdigest() for content in (data, *outside.values())]
    contents = contents_of(release, data, data=parts)
    write_box(release, box_bytes(contents, data + b"".join(outside.values()), digests))
    before = listing(release.folder)
    with pytest.raises(UserError, match=r"has no use for the file 'planted\.bin'"):
        open_to(release, release.folder / "u.onnx")
    assert listing(release.folder) == before


@pytest.mark.parametrize(
    "name", ["evil-1.0.dist-info/entry_points.txt", "setup.cfg", "Makefile", "u.manifest.json", "u.box"]
)
def test_a_forged_box_brings_no_file_that_something_heeds(release: Release, name: str) -> None:
    """Even where the model uses it: the weights in it are the file's content."""
    data, weights = with_outside_weights(release, location=name)
    said = contents_of(release, data, data={name: SealedFile(pieces=[Piece(length=len(weights))])})
    digests = [sha256(content).hexdigest() for content in (data, weights)]
    write_box(release, box_bytes(said, data + weights, digests))
    assert "does not make sense" in refusal(release)


def test_a_holder_passes_a_signed_box_on(release: Release) -> None:
    """Alice encrypts what she decrypted to Mallory, whom the releaser never named; the signature still holds."""
    make_signing_key(release.folder / "r")
    release.seal(["alice"], signing_key=read_signing_key(release.folder / "r"))
    write_box(release, read_box(release, "alice"), "mallory")
    assert "was sealed to other holders and passed on" in refusal(release, "mallory")


def test_a_forged_box_of_something_else(release: Release) -> None:
    """What everybody can encrypt who knows a public key: refused unless it is a whole ONNX model."""
    for data in (b"no model", b""):
        write_box(release, box_bytes(contents_of(release, data), data))
        before = listing(release.folder)
        with pytest.raises(UserError):
            open_to(release, release.folder / "unlocked.onnx")
        with pytest.raises(UserError, match="is no valid model"):
            unlocked_model(release.hardened, release.box, release.key("alice"))
        assert listing(release.folder) == before


@pytest.mark.parametrize("location", ["../secret", "/etc/hostname", "absent.bin"])
def test_a_forged_model_reads_no_other_file(tmp_path: Path, location: str) -> None:
    """Its external data points out of the folder, or at a file that the box does not hold."""
    (tmp_path / "secret").write_bytes(bytes(10**6))
    (tmp_path / "f").mkdir()
    release = make_release(tmp_path / "f")
    weights = with_outside_weights(release)[1]
    data, _ = with_outside_weights(release, location=location, offset="0", length=str(len(weights)))
    write_box(release, box_bytes(contents_of(release, data), data))
    with pytest.raises(UserError):
        open_to(release, release.folder / "unlocked.onnx")
    with pytest.raises(UserError, match="is no valid model"):
        unlocked_model(release.hardened, release.box, release.key("alice"))
    assert not (release.folder / "unlocked.onnx").exists()


@pytest.mark.parametrize("place", [{"length": "+4"}, {"offset": "4"}, {"offset": "-4"}, {"length": "-4"}])
def test_weights_that_reach_outside_their_file(release: Release, place: dict[str, str]) -> None:
    """By however little: what is left of them fits the tensor where only the stated length is too large."""
    length = len(with_outside_weights(release)[1])
    stated = {"length": str(length)} | {
        key: str(length + 4) if value == "+4" else value for key, value in place.items()
    }
    data, weights = with_outside_weights(release, location="w.bin", **stated)
    said = contents_of(release, data, data={"w.bin": SealedFile(pieces=[Piece(length=length)])})
    digests = [sha256(content).hexdigest() for content in (data, weights)]
    write_box(release, box_bytes(said, data + weights, digests))
    with pytest.raises(UserError, match="'wc' reaches outside its data file"):
        unlocked_model(release.hardened, release.box, release.key("alice"))
    before = listing(release.folder)
    with pytest.raises(UserError, match="reaches outside its data file"):
        open_to(release, release.folder / "u.onnx")
    assert listing(release.folder) == before


def test_forged_holders(release: Release) -> None:
    contents = contents_of(release, b"x", holders=[fingerprint(release.public["bob"])])
    write_box(release, box_bytes(contents, b"x"))
    assert "was sealed to other holders" in refusal(release)
