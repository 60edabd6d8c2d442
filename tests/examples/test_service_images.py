"""What the example service does with images that it takes, and with those that it does not."""

from __future__ import annotations

import io
import struct
import zlib
from pathlib import Path
from types import ModuleType

import httpx
import numpy as np
import pytest
from PIL import Image as PilImage

from kdguard.export.model_card import ModelCard, write_card
from kdguard.export.onnx_files import save_onnx
from kdguard.graph_passes.insert_key_gate import gate_model
from tests.conftest import make_conv_net
from tests.examples.loopback import ALICE, IMAGE, headers, png, serving


def chunk(name: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))


def bomb(side: int) -> bytes:
    """A PNG of a few bytes that claims to be a square of this side."""
    size = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
    # A header in a later place counts for Pillow as well.
    return png(IMAGE)[:33] + chunk(b"IHDR", size) + chunk(b"IDAT", zlib.compress(bytes(100))) + chunk(b"IEND", b"")


@pytest.mark.parametrize("path", ["/restore", "/hints"])
@pytest.mark.parametrize("sent", [None, f"Bearer {ALICE.value.hex()}"])
@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
def test_images_that_are_not_taken(client: httpx.Client, path: str, sent: str | None) -> None:
    whole, jpeg = png(IMAGE), io.BytesIO()
    PilImage.fromarray(IMAGE).save(jpeg, format="JPEG")
    for body, status, why in (
        (b"", 415, "the body is no PNG image"),
        (b"text", 415, "the body is no PNG image"),
        (jpeg.getvalue(), 415, "the body is no PNG image"),
        (whole[: len(whole) // 2], 422, "the PNG image is damaged"),
        (whole[:8], 422, "the PNG image is damaged"),
        (bomb(4097), 413, "at most 16777216 pixels are taken"),
        (bomb(20_000), 413, "at most 16777216 pixels are taken"),
        (bomb(2**31 - 1), 413, "at most 16777216 pixels are taken"),
    ):
        answer = client.post(path, content=body, headers=headers(sent))
        assert (answer.status_code, answer.json()) == (status, {"detail": why})
    assert client.get("/health").json() == {"status": "ok"}


def test_bodies_that_are_too_large(client: httpx.Client, service: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(service, "MAX_BYTES", 2**20)
    answer = client.post("/restore", content=iter([bytes(2**20), b"0"]))
    assert (answer.status_code, answer.json()) == (413, {"detail": "at most 1 MiB are taken"})


@pytest.mark.parametrize("kind", ["gray", "alpha", "16 bits"])
def test_pixels_of_other_kinds_are_read_as_kdguard_reads_files(client: httpx.Client, kind: str) -> None:
    gray = np.ascontiguousarray(IMAGE[..., 0])
    same = np.repeat(gray[..., None], 3, axis=-1)
    body = {
        "gray": png(gray),
        "alpha": png(np.dstack([same, gray])),
        "16 bits": png(gray.astype(np.uint16) * 257),
    }[kind]
    assert client.post("/restore", content=body).content == client.post("/restore", content=png(same)).content


def test_an_image_that_the_model_does_not_restore(service: ModuleType, tmp_path: Path) -> None:
    model = make_conv_net()
    write_card(model, ModelCard(task="super-resolution", input_name="image", output_name="restored", scale=2))
    save_onnx(gate_model(model, [ALICE], ["b"]), tmp_path / "gated.onnx")
    with serving(service.create_app(tmp_path / "gated.onnx")) as client:
        seen = set()
        for path in ("/restore", "/hints"):
            for sent in (None, f"Bearer {ALICE.value.hex()}"):
                answer = client.post(path, content=png(IMAGE), headers=headers(sent))
                seen.add((answer.status_code, answer.content))
    assert seen == {(422, b'{"detail":"the model does not restore this image"}')}
