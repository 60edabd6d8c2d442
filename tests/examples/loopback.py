"""The example service over loopback, and what tests send to it."""

from __future__ import annotations

import io
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import numpy as np
import uvicorn
from fastapi import FastAPI
from PIL import Image as PilImage

from kdguard.graph_passes.key_gate import GateSecret
from tests.conftest import photograph
from tests.graph_passes.key_gate.gate_models import secret

FOLDER = Path(__file__).parents[2] / "examples" / "service"
ALICE, BOB, REVOKED = secret(0), secret(1), secret(2)
IMAGE = photograph(48)


def flipped(key: GateSecret) -> GateSecret:
    """One bit off."""
    return GateSecret(bytes([key.value[0] ^ 1, *key.value[1:]]))


NO_HOLDERS: dict[str, str | None] = {
    "no key": None,
    "no scheme": ALICE.value.hex(),
    "another scheme": f"Basic {ALICE.value.hex()}",
    "malformed": "Bearer zz",
    "too short": f"Bearer {ALICE.value.hex()[:-2]}",
    "too long": f"Bearer {ALICE.value.hex()}00",
    "zeros": f"Bearer {'00' * 32}",
    "unknown": f"Bearer {flipped(ALICE).value.hex()}",
    "revoked": f"Bearer {REVOKED.value.hex()}",
}


@contextmanager
def serving(app: FastAPI) -> Iterator[httpx.Client]:
    server = uvicorn.Server(uvicorn.Config(app, port=0, log_config=None, lifespan="off"))
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    while not server.started:
        assert thread.is_alive()
        time.sleep(0.01)
    port = server.servers[0].sockets[0].getsockname()[1]
    with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=60) as client:
        yield client
    server.should_exit = True
    thread.join(10)


def png(image: np.ndarray) -> bytes:
    out = io.BytesIO()
    PilImage.fromarray(image).save(out, format="PNG")
    return out.getvalue()


def headers(authorization: str | None) -> dict[str, str]:
    return {} if authorization is None else {"Authorization": authorization}
