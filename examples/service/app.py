"""A restoration service around one gated model: everybody gets images restored, key holders get hints too.

    python examples/service/serve.py gated.onnx

A caller may send his gate secret as `Authorization: Bearer HEX`. No key, a malformed one, an unknown one and a revoked
one take the same way through the same model: each becomes 32 bytes, is compared with every digest, and is fed to the
gate. So neither the answer nor the time it takes says which keys exist. Keys are neither logged nor sent back.
"""

from __future__ import annotations

import hmac
import io
import logging
import re
import secrets
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from fastapi import FastAPI, HTTPException, Request, Response
from fastapi.concurrency import run_in_threadpool
from numpy.typing import NDArray
from PIL import Image as PilImage
from safetensors.numpy import save

from kdguard.export.errors import UserError
from kdguard.export.onnx_files import load_onnx
from kdguard.export.tasks import Image
from kdguard.graph_passes.key_gate import GateSecret, KeyDigest, read_gate
from kdguard.runtime import OpenedModel, open_model

MAX_BYTES = 32 * 2**20
MAX_PIXELS = 4096 * 4096
NOT_FOR_YOU = "hints are for key holders"

log = logging.getLogger("kdguard.service")


def create_app(model_path: Path) -> FastAPI:
    """The service.

    Raises:
        UserError: the model cannot be opened, or has no gate.
    """
    gate = read_gate(load_onnx(model_path))
    if gate is None:
        raise UserError(f"{model_path} has no key gate; `kdguard gate` puts one in")
    model = open_model(model_path)
    app = FastAPI(title="kdguard example service", openapi_url=None)

    @app.get("/health")
    def health() -> dict[str, str]:
        return {"status": "ok"}

    @app.post("/restore")
    async def restore(request: Request) -> Response:
        image = decode(await limited_body(request), model.card.channels)
        key = key_of(request.headers.get("authorization"))
        restored = await run_in_threadpool(model.with_key(key).restore, image)
        return Response(encode(restored), media_type="image/png")

    @app.post("/hints")
    async def hints(request: Request) -> Response:
        image = decode(await limited_body(request), model.card.channels)
        key = key_of(request.headers.get("authorization"))
        holder = find_holder(gate.digests, KeyDigest.of(key, gate.seed))
        found = await run_in_threadpool(answer_with_hints, model.with_key(key), image)
        if holder is None or found is None:
            raise HTTPException(403, NOT_FOR_YOU)
        log.info("hints for holder %s", holder)
        return Response(save(found), media_type="application/octet-stream")

    return app


def key_of(header: str | None) -> GateSecret:
    """What the caller sent; something random in place of what is no key, so that it goes the same way."""
    sent = re.fullmatch(r"Bearer ([0-9a-fA-F]{64})", header or "")
    instead = secrets.token_bytes(32)
    return GateSecret(bytes.fromhex(sent[1]) if sent else instead)


def find_holder(digests: Sequence[KeyDigest], sent: KeyDigest) -> str | None:
    """Name of the digest that was sent; every one is looked at, and each in constant time."""
    found = None
    for digest in digests:
        if hmac.compare_digest(digest.residues, sent.residues):
            found = digest.name
    return found


def answer_with_hints(model: OpenedModel, image: Image) -> dict[str, NDArray[np.float32]] | None:
    """The restored image and the hints by name; None where the gate stays shut, after the same work."""
    restored = model.restore(image)
    try:
        hints = model.hints(image)
    except UserError:
        return None
    return {"restored": np.ascontiguousarray(restored, np.float32)} | {
        f"hint/{layer}": np.ascontiguousarray(values) for layer, values in hints.items()
    }


async def limited_body(request: Request) -> bytes:
    """The body; 413 where it is larger than any image that is taken."""
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > MAX_BYTES:
            raise HTTPException(413, f"at most {MAX_BYTES >> 20} MiB are taken")
    return bytes(body)


def decode(content: bytes, channels: int) -> Image:
    """A PNG file as [H, W, channels], 0 black and 1 white; 413 or 422 where it is none that is taken."""
    try:
        with PilImage.open(io.BytesIO(content), formats=["PNG"]) as picture:
            if picture.width * picture.height > MAX_PIXELS:  # told by the header, before anything is unpacked
                raise HTTPException(413, f"at most {MAX_PIXELS} pixels are taken")
            pixels = np.asarray(picture.convert("RGB" if channels == 3 else "L"), np.float32) / np.float32(255)
    except (OSError, SyntaxError, ValueError, PilImage.DecompressionBombError) as error:
        raise HTTPException(422, "the body is no PNG image, or a damaged one") from error
    return pixels if channels == 3 else pixels[:, :, None]


def encode(image: Image) -> bytes:
    """[H, W, C] as a PNG file of 8 bits."""
    pixels = np.rint(np.nan_to_num(image).clip(0, 1) * 255).astype(np.uint8)
    out = io.BytesIO()
    PilImage.fromarray(pixels if pixels.shape[2] == 3 else pixels[:, :, 0]).save(out, format="PNG")
    return out.getvalue()
