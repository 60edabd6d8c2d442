"""A release to test on: a teacher, its hardened model, keys, and boxes, real and forged."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import onnx

from kdguard.export.model_card import ModelCard, write_card
from kdguard.export.onnx_files import load_onnx, save_onnx, sha256_of_model
from kdguard.graph_passes.insert_svd_perturb import InsertSvdPerturb
from kdguard.graph_passes.op import SvdPerturbAttributes
from kdguard.runtime.box.contents import MAGIC, BoxContents, Hashes, Piece, SealedFile
from kdguard.runtime.box.encryption import decrypt, encrypt
from kdguard.runtime.box.keys import fingerprint, make_holder_key, read_holder_key
from kdguard.runtime.box.seal import SealReport, seal
from tests.conftest import make_conv_net
from tests.large_model import write_large_teacher


@dataclass
class Release:
    """Files of one release; public keys by holder, whose secret one is in NAME.key."""

    folder: Path
    teacher: Path
    hardened: Path
    public: dict[str, str]

    @property
    def box(self) -> Path:
        return self.folder / "hardened.box"

    def key(self, name: str) -> Path:
        return self.folder / f"{name}.key"

    def seal(self, holders: Iterable[str] = ("alice", "bob"), **settings: object) -> SealReport:
        keys = [self.public[name] for name in holders]
        return seal(self.hardened, self.teacher, self.box, keys, **settings)  # type: ignore[arg-type]


def harden(teacher: Path, hardened: Path, layers: Iterable[str] = ("b",)) -> None:
    attributes = SvdPerturbAttributes(rank=2, gain=10.0)
    save_onnx(InsertSvdPerturb(list(layers), attributes, placement="paired")(load_onnx(teacher)).model, hardened)


def make_release(folder: Path, width: int = 16) -> Release:
    """A small teacher in one file."""
    teacher = make_conv_net(width)
    write_card(teacher, ModelCard(task="deraining", input_name="image", output_name="restored"))
    save_onnx(teacher, folder / "teacher.onnx")
    return _release(folder, folder / "teacher.onnx")


def make_large_release(folder: Path, side: int = 96) -> Release:
    """A teacher with most of its weights in weights.bin."""
    (folder / "t").mkdir()
    return _release(folder, write_large_teacher(folder / "t", side))


def _release(folder: Path, teacher: Path) -> Release:
    harden(teacher, folder / "hardened.onnx")
    public = {name: make_holder_key(folder / f"{name}.key") for name in ("alice", "bob", "mallory")}
    return Release(folder, teacher, folder / "hardened.onnx", public)


def change_weight(model_path: Path, output: Path, name: str) -> None:
    """A copy of a model in which one weight is another."""
    model = load_onnx(model_path)
    (tensor,) = (tensor for tensor in model.graph.initializer if tensor.name == name)
    tensor.raw_data = bytes(reversed(tensor.raw_data))
    onnx.save_model(model, str(output))


def contents_of(release: Release, sealed: bytes, /, **changes: object) -> BoxContents:
    """What a box says that holds `sealed` as the teacher's only file."""
    said: dict[str, object] = {
        "kdguard_version": "0",
        "hardened_sha256": sha256_of_model(release.hardened),
        "holders": [fingerprint(release.public["alice"])],
        "model": SealedFile(pieces=[Piece(length=len(sealed))] if sealed else []),
    }
    return BoxContents.model_construct(**(said | changes))  # type: ignore[arg-type]


def box_bytes(
    contents: BoxContents, data: bytes, digests: list[str] | None = None, signature: bytes = b"null\n"
) -> bytes:
    """A box's plaintext, put together by hand."""
    hashes = Hashes(sha256=[hashlib.sha256(data).hexdigest()] if digests is None else digests)
    return MAGIC + contents.line() + data + hashes.line() + signature


def write_box(release: Release, plaintext: bytes, holder: str = "alice") -> Path:
    """Encrypt any plaintext to a holder, as anybody can who knows his public key."""
    with release.box.open("wb") as stream:
        encrypt(iter([plaintext]), stream, [release.public[holder]])
    return release.box


def read_box(release: Release, name: str = "alice") -> bytes:
    """A box's plaintext."""
    plain = io.BytesIO()
    decrypt(iter([release.box.read_bytes()]), plain.write, read_holder_key(release.key(name)), "the box")
    return plain.getvalue()


def rename_data(teacher: Path, *names: str) -> None:
    """Give a teacher's data file other names in the model, to each of its tensors the next one."""
    model = onnx.load_model(str(teacher), load_external_data=False)
    outside = [entry for t in model.graph.initializer for entry in t.external_data if entry.key == "location"]
    for index, entry in enumerate(outside):
        entry.value = names[index % len(names)]
    teacher.write_bytes(model.SerializeToString())
