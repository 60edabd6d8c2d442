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

import anyio.to_thread
import numpy as np
from fastapi import FastAPI, HTTPException, Request, Response
from fastapi.responses import JSONResponse
from PIL import Image as PilImage
from safetensors.numpy import save
from starlette.requests import ClientDisconnect

from kdguard.export.errors import UserError
from kdguard.export.image_pairs import pixels_of
from kdguard.export.onnx_files import load_onnx
from kdguard.export.tasks import Image
from kdguard.graph_passes.key_gate import GateSecret, KeyDigest, read_gate
from kdguard.runtime import OpenedModel, open_model

MAX_BYTES = 32 * 2**20
MAX_PIXELS = 4096 * 4096
AT_ONCE = 4
"""Requests that are worked on; others wait. What a request takes, decoding included, is memory."""
NOT_FOR_YOU = "hints are for key holders"
SIGNATURE = b"\x89PNG\r\n\x1a\n"

log = logging.getLogger("kdguard.service")


def create_app(model_path: Path) -> FastAPI:
    """The service.

    Raises:
        UserError: the model cannot be opened, or has no gate with hints.
    """
    gate = read_gate(load_onnx(model_path))
    if gate is None or not gate.hints:
        raise UserError(f"{model_path} has no key gate with hints; `kdguard gate --hints` puts one in")
    model = open_model(model_path).with_key(None)  # starts the session for hints before anybody asks
    app = FastAPI(title="kdguard example service", openapi_url=None)
    limiter = anyio.CapacityLimiter(AT_ONCE)

    @app.get("/health")
    async def health() -> dict[str, str]:
        return {"status": "ok"}

    @app.post("/restore")
    async def restore(request: Request) -> Response:
        body, key = await limited_body(request), key_of(request.headers.getlist("authorization"))
        restored = await anyio.to_thread.run_sync(restored_png, model.with_key(key), body, limiter=limiter)
        return Response(restored, media_type="image/png")

    @app.post("/hints")
    async def hints(request: Request) -> Response:
        body, key = await limited_body(request), key_of(request.headers.getlist("authorization"))
        holder = find_holder(gate.digests, KeyDigest.of(key, gate.seed))
        found = await anyio.to_thread.run_sync(answer_with_hints, model.with_key(key), body, limiter=limiter)
        if holder is None or found is None:
            raise HTTPException(403, NOT_FOR_YOU)
        log.info("hints for holder %s", holder)
        return Response(found, media_type="application/octet-stream")

    @app.exception_handler(UserError)
    async def refuse(_: Request, error: UserError) -> Response:
        log.warning("an image was not restored: %s", error)
        return JSONResponse({"detail": "the model does not restore this image"}, 422)

    @app.exception_handler(ClientDisconnect)
    async def let_go(_: Request, __: ClientDisconnect) -> Response:
        log.warning("a caller went away before his image was whole")
        return Response(status_code=400)  # nobody reads it

    return app


def key_of(headers: Sequence[str]) -> GateSecret:
    """What the caller sent; random bytes in place of what `with_key` would refuse, so that it goes the same way.

    Two headers are no key: which one counts, he and whatever stands between might see differently.
    """
    header = headers[0] if len(headers) == 1 else ""
    sent = re.fullmatch(r"(?i:Bearer) +([0-9a-fA-F]{64})", header)
    instead = secrets.token_bytes(32)
    return GateSecret(bytes.fromhex(sent[1]) if sent else instead)


def find_holder(digests: Sequence[KeyDigest], sent: KeyDigest) -> str | None:
    """Name of the digest that was sent; every one is looked at, and each in constant time."""
    found = None
    for digest in digests:
        if hmac.compare_digest(digest.residues, sent.residues):
            found = digest.name
    return found


def restored_png(model: OpenedModel, body: bytes) -> bytes:
    return encode(model.restore(decode(body, model.card.channels)))


def answer_with_hints(model: OpenedModel, body: bytes) -> bytes | None:
    """The restored image and the hints as safetensors; None where the gate stays shut, after the same work."""
    image = decode(body, model.card.channels)
    restored = model.restore(image)
    try:
        hints = model.hints(image)
    except UserError:
        return None
    named = {"restored": restored} | {f"hint/{layer}": values for layer, values in hints.items()}
    return save({name: np.ascontiguousarray(values, np.float32) for name, values in named.items()})


async def limited_body(request: Request) -> bytes:
    """The body; 413 where it is larger than any image that is taken."""
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > MAX_BYTES:
            raise HTTPException(413, f"at most {MAX_BYTES >> 20} MiB are taken")
    return bytes(body)


def decode(content: bytes, channels: int) -> Image:
    """A PNG file as [H, W, channels], 0 black and 1 white, read as `kdguard` reads files.

    Raises:
        HTTPException: 415 where it is no PNG, 413 where it is too large, 422 where it is damaged.
    """
    if not content.startswith(SIGNATURE):
        raise HTTPException(415, "the body is no PNG image")
    too_large = HTTPException(413, f"at most {MAX_PIXELS} pixels are taken")
    try:
        with PilImage.open(io.BytesIO(content), formats=["PNG"]) as picture:
            if picture.width * picture.height > MAX_PIXELS:  # told by the header, before anything is unpacked
                raise too_large
            return pixels_of(picture, channels)
    except PilImage.DecompressionBombError as error:
        raise too_large from error
    except (OSError, SyntaxError, ValueError) as error:
        raise HTTPException(422, "the PNG image is damaged") from error


def encode(image: Image) -> bytes:
    """[H, W, C] as a PNG file of 8 bits."""
    pixels = np.rint(np.nan_to_num(image).clip(0, 1) * 255).astype(np.uint8)
    out = io.BytesIO()
    PilImage.fromarray(pixels if pixels.shape[2] == 3 else pixels[:, :, 0]).save(out, format="PNG")
    return out.getvalue()
