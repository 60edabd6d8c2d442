"""An engine without a GPU: its manifest is real, and onnxruntime answers in place of the vendor's library."""

from __future__ import annotations

import sys
from pathlib import Path

import onnx
import pytest

from kdguard.export.files import sha256_of_file
from kdguard.export.model_card import ModelCard
from kdguard.graph_passes.inventory import hardened_layers
from kdguard.runtime.engines.manifest import EngineManifest, EngineTensor, manifest_path
from kdguard.runtime.engines.process import EngineProcess
from kdguard.runtime.engines.runner import Request
from kdguard.runtime.engines.session import Engine

COMMAND = (sys.executable, str(Path(__file__).with_name("onnxruntime_runner.py")))


def write_engine(model: onnx.ModelProto, card: ModelCard, path: Path) -> Path:
    """The model under an engine's name, and the manifest that `kdguard build` would write."""
    onnx.save(model, path)
    manifest = EngineManifest(
        engine=path.name,
        engine_sha256=sha256_of_file(path),
        kind="tensorrt-rtx",
        vendor_version="1.0",
        gpus=["8.9"],
        later_gpus=True,
        hardened="hardened.onnx",
        hardened_sha256="0" * 64,
        layers=[layer.layer for layer in hardened_layers(model)],
        card=card,
        precision="fp32",
        op="function",
        inputs=[EngineTensor(name="image", dtype="float", shape=[-1, 3, -1, -1])],
        outputs=[EngineTensor(name="restored", dtype="float", shape=[-1, 3, -1, -1])],
        shapes={"image": [[1, 3, 16, 16], [1, 3, 64, 64], [1, 3, 256, 256]]},
        seconds=1.0,
    )
    manifest_path(path).write_text(manifest.model_dump_json())
    return path


@pytest.fixture
def onnxruntime_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    """Sessions of engines ask onnxruntime."""

    def start(*engines: Engine) -> EngineProcess:
        return EngineProcess(Request(package="", engines=[engine.path for engine in engines]), "onnxruntime", COMMAND)

    for module in ("engines.session", "bench.engines"):
        monkeypatch.setattr(f"kdguard.runtime.{module}.start_engines", start)
