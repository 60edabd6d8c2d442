"""What a file that is no ONNX model is, by its first bytes; it is not read any further than its table of contents."""

from __future__ import annotations

import zipfile
from pathlib import Path

ENGINE = "a TensorRT engine"
CHECKPOINT = "a torch checkpoint"

_MAGIC = (
    (0, b"ftrt", ENGINE),  # of TensorRT
    (0, b"vtrt", ENGINE),  # of TensorRT-RTX
    (0, b"\x80\x02\x8a\x0a\x6c\xfc\x9c\x46\xf9", CHECKPOINT),  # of torch before 1.6
    (0, b"\x89HDF\r\n\x1a\n", "an HDF5 file, as Keras writes"),
    (0, b"GGUF", "a GGUF file"),
    (4, b"TFL3", "a TensorFlow Lite model"),
    (4, b"ORTM", "a model in onnxruntime's own format"),
    (8, b'{"', "a safetensors file"),
)
_ADVICE = {
    ENGINE: "give the model that it was built from",
    CHECKPOINT: "`kdguard export` makes an ONNX file of a torch module",
}


def other_kind(path: Path) -> str | None:
    """What the file is, and what to do; None where it is nothing known here."""
    with path.open("rb") as stream:
        start = stream.read(16)
    found = next((kind for offset, magic, kind in _MAGIC if start[offset:].startswith(magic)), None)
    if start.startswith(b"PK\x03\x04"):
        found = _kind_of_zip(path)
    return found and f"{found}, not an ONNX file; {_ADVICE.get(found, 'convert it to ONNX first')}"


def is_engine_file(path: Path) -> bool:
    """Whether a file begins as a vendor's engines do; what cannot be read does not."""
    try:
        if not path.is_file():  # a pipe would be waited for
            return False
        with path.open("rb") as stream:
            start = stream.read(4)
    except (OSError, ValueError):  # a NUL in the name
        return False
    return any(kind == ENGINE and start == magic for _, magic, kind in _MAGIC)


def _kind_of_zip(path: Path) -> str:
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
    except (zipfile.BadZipFile, OSError, NotImplementedError, UnicodeDecodeError):
        return "a damaged zip archive"
    return CHECKPOINT if any(name.endswith("/data.pkl") for name in names) else "a zip archive"
