"""The example service, started once per file of tests."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import httpx
import pytest

from kdguard.export.model_card import ModelCard, write_card
from kdguard.export.onnx_files import save_onnx
from kdguard.graph_passes.insert_key_gate import gate_model
from kdguard.graph_passes.insert_svd_perturb import InsertSvdPerturb
from kdguard.graph_passes.op import SvdPerturbAttributes
from tests.conftest import make_conv_net
from tests.examples.loopback import ALICE, BOB, FOLDER, serving
from tests.runtime.commands.command_line import CommandLine


@pytest.fixture
def kdguard(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> CommandLine:
    return CommandLine(capsys, monkeypatch)


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
    with serving(service.create_app(gated)) as client:
        yield client
