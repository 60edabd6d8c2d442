"""The example service, over loopback with a real HTTP client: all restore, holders get hints, others learn nothing."""

from __future__ import annotations

import importlib.util
import io
import logging
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import ModuleType

import httpx
import numpy as np
import pytest
import uvicorn
from PIL import Image as PilImage
from safetensors.numpy import load

from kdguard.export.errors import UserError
from kdguard.export.model_card import ModelCard, write_card
from kdguard.export.onnx_files import save_onnx
from kdguard.graph_passes.insert_key_gate import gate_model
from kdguard.graph_passes.insert_svd_perturb import InsertSvdPerturb
from kdguard.graph_passes.key_gate import GateSecret
from kdguard.graph_passes.op import SvdPerturbAttributes
from kdguard.runtime import open_model
from tests.conftest import make_conv_net, photograph
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


@pytest.fixture(scope="module")
def service() -> ModuleType:
    spec = importlib.util.spec_from_file_location("kdguard_example_service", FOLDER / "app.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # FastAPI looks annotations up there
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def gated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    model = InsertSvdPerturb(["b", "d"], SvdPerturbAttributes(rank=2, gain=10.0))(make_conv_net()).model
    write_card(model, ModelCard(task="deraining", input_name="image", output_name="restored"))
    path = tmp_path_factory.mktemp("service") / "gated.onnx"
    save_onnx(gate_model(model, [ALICE, BOB], {"b": 3}), path)
    return path


@pytest.fixture(scope="module")
def client(service: ModuleType, gated: Path) -> Iterator[httpx.Client]:
    server = uvicorn.Server(uvicorn.Config(service.create_app(gated), port=0, log_level="info", lifespan="off"))
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


def test_everybody_gets_the_same_bytes(client: httpx.Client, gated: Path) -> None:
    answers = [client.post("/restore", content=png(IMAGE), headers=headers(sent)) for sent in NO_HOLDERS.values()]
    assert {answer.status_code for answer in answers} == {200}
    assert len({answer.content for answer in answers}) == 1
    restored = np.asarray(PilImage.open(io.BytesIO(answers[0].content)), np.float32) / 255
    expected = open_model(gated).restore(IMAGE.astype(np.float32) / 255).clip(0, 1)
    assert np.abs(restored - expected).max() <= 0.5 / 255 + 1e-6
    holder = client.post("/restore", content=png(IMAGE), headers=headers(f"Bearer {ALICE.value.hex()}"))
    assert holder.content == answers[0].content


def test_each_holder_gets_hints(client: httpx.Client, gated: Path) -> None:
    expected = open_model(gated, ALICE).hints(IMAGE.astype(np.float32) / 255)["b"]
    for key in (ALICE, BOB):
        answer = client.post("/hints", content=png(IMAGE), headers=headers(f"Bearer {key.value.hex()}"))
        assert answer.status_code == 200
        found = load(answer.content)
        assert {name: array.shape for name, array in found.items()} == {"restored": (48, 48, 3), "hint/b": (3, 48, 48)}
        np.testing.assert_allclose(found["hint/b"], expected, atol=1e-5)


def test_others_are_refused_alike(client: httpx.Client) -> None:
    seen = set()
    for sent in NO_HOLDERS.values():
        answer = client.post("/hints", content=png(IMAGE), headers=headers(sent))
        kept = {name: value for name, value in answer.headers.items() if name != "date"}
        seen.add((answer.status_code, answer.content, tuple(sorted(kept.items()))))
    assert len(seen) == 1
    ((status, content, _),) = seen
    assert (status, content) == (403, b'{"detail":"hints are for key holders"}')


def test_what_no_holder_sends_goes_the_whole_way(
    service: ModuleType, client: httpx.Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every digest is compared and the model asked for hints, whatever the key: a shortcut would show in the time."""
    compared: list[int] = []
    asked: list[object] = []
    real_compare, real_answer = service.hmac.compare_digest, service.answer_with_hints
    counting = type("hmac", (), {"compare_digest": staticmethod(lambda a, b: compared.append(1) or real_compare(a, b))})
    monkeypatch.setattr(service, "hmac", counting)
    monkeypatch.setattr(service, "answer_with_hints", lambda *given: asked.append(1) or real_answer(*given))
    callers = [*NO_HOLDERS.values(), f"Bearer {ALICE.value.hex()}"]
    for sent in callers:
        client.post("/hints", content=png(IMAGE), headers=headers(sent))
    assert (len(compared), len(asked)) == (2 * len(callers), len(callers))


def test_callers_at_once_do_not_mix(client: httpx.Client) -> None:
    senders = [f"Bearer {ALICE.value.hex()}", None, f"Bearer {REVOKED.value.hex()}", f"Bearer {BOB.value.hex()}"] * 5
    with ThreadPoolExecutor(8) as pool:
        codes = list(
            pool.map(lambda sent: client.post("/hints", content=png(IMAGE), headers=headers(sent)).status_code, senders)
        )
    assert codes == [200, 403, 403, 200] * 5


def test_images_that_are_none(client: httpx.Client, service: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = png(IMAGE)
    jpeg = io.BytesIO()
    PilImage.fromarray(IMAGE).save(jpeg, format="JPEG")
    for body in (b"", b"text", whole[: len(whole) // 2], jpeg.getvalue()):
        for path in ("/restore", "/hints"):
            answer = client.post(path, content=body)
            assert (answer.status_code, answer.json()) == (
                422,
                {"detail": "the body is no PNG image, or a damaged one"},
            )
    monkeypatch.setattr(service, "MAX_PIXELS", 47 * 48)
    assert client.post("/restore", content=whole).status_code == 413
    monkeypatch.setattr(service, "MAX_BYTES", 100)
    assert client.post("/restore", content=whole).status_code == 413
    assert client.get("/health").json() == {"status": "ok"}


def test_no_key_is_logged(client: httpx.Client, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.DEBUG):
        for sent in (*NO_HOLDERS.values(), f"Bearer {ALICE.value.hex()}"):
            client.post("/hints", content=png(IMAGE), headers=headers(sent))
    assert "hints for holder" in caplog.text
    for key in (ALICE, REVOKED, flipped(ALICE)):
        assert key.value.hex()[:16] not in caplog.text


def test_a_model_without_a_gate(service: ModuleType, tmp_path: Path) -> None:
    save_onnx(make_conv_net(), tmp_path / "plain.onnx")
    with pytest.raises(UserError, match="has no key gate"):
        service.create_app(tmp_path / "plain.onnx")
    command = [sys.executable, str(FOLDER / "serve.py"), str(tmp_path / "plain.onnx")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, "has no key gate" in done.stderr) == (2, True)
