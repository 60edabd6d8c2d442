"""The example service, over loopback with a real HTTP client: all restore, holders get hints, others learn nothing."""

from __future__ import annotations

import io
import logging
import re
import shlex
import shutil
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import ModuleType

import httpx
import numpy as np
import pytest
from PIL import Image as PilImage
from safetensors.numpy import load, load_file

from kdguard.export.errors import UserError
from kdguard.export.model_card import ModelCard, write_card
from kdguard.export.onnx_files import save_onnx
from kdguard.graph_passes.insert_key_gate import gate_model
from kdguard.graph_passes.insert_svd_perturb import InsertSvdPerturb
from kdguard.graph_passes.key_gate import GateSecret
from kdguard.graph_passes.layers import rename_tensors
from kdguard.graph_passes.op import SvdPerturbAttributes
from kdguard.runtime import open_model, read_gate_secret
from kdguard.runtime.box.gate_keys import read_gate_digest
from tests.conftest import make_conv_net, photograph
from tests.examples.loopback import ALICE, BOB, FOLDER, IMAGE, NO_HOLDERS, REVOKED, flipped, headers, png
from tests.runtime.commands.command_line import CommandLine


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


def test_two_keys_at_once_are_none(client: httpx.Client) -> None:
    """Whichever comes first, and even if both are right."""
    right, wrong = (("Authorization", f"Bearer {key.value.hex()}") for key in (ALICE, REVOKED))
    for sent in ([right, wrong], [wrong, right], [right, right]):
        answer = client.post("/hints", content=png(IMAGE), headers=sent)
        assert (answer.status_code, answer.json()) == (403, {"detail": "hints are for key holders"})
    assert client.post("/hints", content=png(IMAGE), headers=[right]).status_code == 200


@pytest.mark.parametrize("path", ["/restore", "/hints"])
def test_an_upload_that_is_broken_off(client: httpx.Client, caplog: pytest.LogCaptureFixture, path: str) -> None:
    """It is a line in the log, and no traceback."""
    head = f"POST {path} HTTP/1.1\r\nHost: x\r\nContent-Length: 500\r\n\r\n"
    with socket.create_connection((client.base_url.host, client.base_url.port)) as connection:
        connection.sendall(head.encode() + b"abc")
    for _ in range(1000):
        if "went away" in caplog.text or "ClientDisconnect" in caplog.text:
            break
        time.sleep(0.01)
    assert client.get("/health").status_code == 200
    assert "a caller went away before his image was whole" in caplog.text
    assert not [record for record in caplog.records if record.levelno >= logging.ERROR or record.exc_info]


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


@pytest.mark.parametrize("slip", ["find_holder", "answer_with_hints"])
def test_both_must_agree(service: ModuleType, client: httpx.Client, monkeypatch: pytest.MonkeyPatch, slip: str) -> None:
    """A holder to the gate alone, or to the comparison alone, is none; the log names nobody either."""
    monkeypatch.setattr(service, slip, lambda *_: None)
    answer = client.post("/hints", content=png(IMAGE), headers=headers(f"Bearer {ALICE.value.hex()}"))
    assert (answer.status_code, answer.json()) == (403, {"detail": "hints are for key holders"})


def test_so_many_are_worked_on_at_a_time(
    service: ModuleType, client: httpx.Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of both kinds together; the others wait."""
    lock, go_on, entered = threading.Lock(), threading.Event(), threading.Semaphore(0)
    running: list[int] = []
    peaks: list[int] = []

    def holding(real: Callable[..., bytes]) -> Callable[..., bytes]:
        def work(*given: object) -> bytes:
            with lock:
                running.append(1)
                peaks.append(len(running))
            entered.release()
            go_on.wait(30)
            with lock:
                running.pop()
            return real(*given)

        return work

    for name in ("restored_png", "answer_with_hints"):
        monkeypatch.setattr(service, name, holding(getattr(service, name)))
    paths = ["/restore", "/hints"] * service.AT_ONCE
    with ThreadPoolExecutor(len(paths)) as pool:
        answers = [pool.submit(client.post, path, content=png(IMAGE)) for path in paths]
        assert all(entered.acquire(timeout=20) for _ in range(service.AT_ONCE))
        time.sleep(0.3)  # for one too many to come in
        go_on.set()
        assert [answer.result().status_code for answer in answers] == [200, 403] * service.AT_ONCE
    assert max(peaks) == service.AT_ONCE


def test_answers_to_different_keys_at_once_are_whose_they_are(client: httpx.Client, gated: Path) -> None:
    """Each with an image of its own, so that a mixed-up answer shows."""
    pictures = [photograph(48, offset) for offset in (0, 100, 200)]
    expected = [open_model(gated, ALICE).hints(picture.astype(np.float32) / 255)["b"] for picture in pictures]
    asked = [(index, key) for index in range(3) for key in (ALICE, None, BOB, REVOKED)] * 2

    def ask(index: int, key: GateSecret | None) -> httpx.Response:
        sent = headers(key and f"Bearer {key.value.hex()}")
        return client.post("/hints", content=png(pictures[index]), headers=sent)

    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(ask, *zip(*asked, strict=True)))
    for (index, key), answer in zip(asked, answers, strict=True):
        assert answer.status_code == (200 if key in (ALICE, BOB) else 403)
        if answer.status_code == 200:
            np.testing.assert_allclose(load(answer.content)["hint/b"], expected[index], atol=1e-5)


def test_no_key_is_logged(client: httpx.Client, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.DEBUG):
        for sent in (*NO_HOLDERS.values(), f"Bearer {ALICE.value.hex()}"):
            client.post("/hints", content=png(IMAGE), headers=headers(sent))
    assert "hints for holder" in caplog.text
    assert "uvicorn.access" in {record.name for record in caplog.records}, "its logs are looked at too"
    for key in (ALICE, REVOKED, flipped(ALICE)):
        assert key.value.hex()[:16] not in caplog.text


def test_models_that_it_does_not_serve(service: ModuleType, tmp_path: Path) -> None:
    plain, without_hints = tmp_path / "plain.onnx", tmp_path / "no-hints.onnx"
    save_onnx(make_conv_net(), plain)
    hardened = InsertSvdPerturb(["b"], SvdPerturbAttributes(gain=10.0))(make_conv_net()).model
    save_onnx(gate_model(hardened, [ALICE]), without_hints)
    for path in (plain, without_hints):
        with pytest.raises(UserError, match="has no key gate with hints"):
            service.create_app(path)
    command = [sys.executable, str(FOLDER / "serve.py"), str(plain)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, "has no key gate" in done.stderr) == (2, True)
    assert "Traceback" not in done.stderr


@pytest.mark.skipif(shutil.which("curl") is None, reason="the README asks with curl")
def test_the_readmes_commands_run(kdguard: CommandLine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As they stand, but for the port; and the log names the holder, whose key is the only one."""
    making, asking = re.findall(r"```bash\n(.*?)```", (FOLDER / "README.md").read_text(), re.DOTALL)
    *commands, serve = making.splitlines()
    assert serve == "python examples/service/serve.py gated.onnx"
    model = make_conv_net()
    rename_tensors(model.graph.node, {"b": "relu_13"})
    write_card(model, ModelCard(task="deraining", input_name="image", output_name="restored"))
    save_onnx(InsertSvdPerturb(["d"], SvdPerturbAttributes(gain=10.0))(model).model, tmp_path / "hardened.onnx")
    (tmp_path / "rainy.png").write_bytes(png(IMAGE))
    monkeypatch.chdir(tmp_path)
    for line in commands:
        assert kdguard(*shlex.split(line, comments=True)[1:]) == 0, kdguard.err
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, str(FOLDER / "serve.py"), "gated.onnx", "--port", str(port)]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        try:
            assert process.stderr is not None
            while "running on" not in (line := process.stderr.readline()):
                assert line, "it ended"
            assert httpx.get(f"http://127.0.0.1:{port}/health").json() == {"status": "ok"}
            ask = ["bash", "-ec", asking.replace(":8000/", f":{port}/")]
            done = subprocess.run(ask, capture_output=True, text=True, check=False)
        finally:
            process.terminate()
        logged = process.stderr.read()
    assert done.returncode == 0, done.stderr
    assert PilImage.open("restored.png").size == (48, 48)
    assert load_file("hints.safetensors")["hint/relu_13"].shape == (4, 48, 48)
    assert f"hints for holder {read_gate_digest(Path('alice.gate.pub')).name}" in logged
    assert read_gate_secret("alice.gate").value.hex()[:16] not in logged
