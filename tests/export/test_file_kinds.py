"""Files of other kinds are told by their content, whatever they are called."""

from __future__ import annotations

import io
import os
import zipfile
from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy
import torch

from kdguard.export.errors import UserError
from kdguard.export.file_kinds import is_engine_file, other_kind
from kdguard.export.onnx_files import load_onnx
from tests.conftest import make_conv_net


def checkpoint(**options: bool) -> bytes:
    stream = io.BytesIO()
    torch.save({"weight": torch.zeros(3)}, stream, **options)  # noqa: TID251  # what others hand us
    return stream.getvalue()


def plain_zip() -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        archive.writestr("model.onnx", b"")
    return stream.getvalue()


KINDS = {
    "torch": (checkpoint(), "a torch checkpoint, not an ONNX file; `kdguard export` makes an ONNX file of"),
    "old torch": (checkpoint(_use_new_zipfile_serialization=False), "a torch checkpoint, not an ONNX file; `kdguard"),
    "TensorRT": (b"ftrt" + bytes(200), "a TensorRT engine, not an ONNX file; give the model that it was built from"),
    "safetensors": (safetensors.numpy.save({"w": np.zeros(3)}), "a safetensors file, not an ONNX file; convert it"),
    "HDF5": (b"\x89HDF\r\n\x1a\n" + bytes(200), "an HDF5 file, as Keras writes, not an ONNX file"),
    "TFLite": (b"\x1c\0\0\0TFL3" + bytes(200), "a TensorFlow Lite model, not an ONNX file"),
    "zip": (plain_zip(), "a zip archive, not an ONNX file; convert it to ONNX first"),
    "cut-off zip": (checkpoint()[:200], "a damaged zip archive, not an ONNX file"),
}


@pytest.mark.parametrize("kind", KINDS)
def test_says_what_it_is_instead(tmp_path: Path, kind: str) -> None:
    content, line = KINDS[kind]
    path = tmp_path / "model.onnx"
    path.write_bytes(content)
    with pytest.raises(UserError) as caught:
        load_onnx(path)
    assert "\n" not in str(caught.value)
    assert str(caught.value).startswith(f"{path}: {line}")


@pytest.mark.parametrize("content", [b"", b"PK", b"some words\n", make_conv_net().SerializeToString()])
def test_says_nothing_of_what_it_does_not_know(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "file").write_bytes(content)
    assert other_kind(tmp_path / "file") is None


@pytest.mark.parametrize(("at", "odd"), [(6, b"\xff\xff"), (8, b"\x00\x08")])
def test_a_zip_that_python_cannot_read(tmp_path: Path, at: int, odd: bytes) -> None:
    """A version from the future; a name that says it is UTF-8 and is not."""
    content = bytearray(plain_zip().replace(b"model.onnx", b"mod\xffl.onnx"))
    entry = content.index(b"PK\x01\x02")
    content[entry + at : entry + at + 2] = odd
    (tmp_path / "model.onnx").write_bytes(content)
    with pytest.raises(UserError, match="a damaged zip archive, not an ONNX file"):
        load_onnx(tmp_path / "model.onnx")


def test_pipes_and_folders_are_no_engines(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path / "pipe", tmp_path, tmp_path / "absent", Path("a\0b")):
        assert not is_engine_file(path)
