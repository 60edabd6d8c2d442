"""The child process that holds engines, with onnxruntime in the vendor's place; and the real one without a GPU."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import onnx
import pytest

from kdguard.export.errors import MissingDependencyError, UserError
from kdguard.runtime.engines.process import EngineProcess
from kdguard.runtime.engines.runner import Request
from kdguard.runtime.gpu import compute_capability
from tests.conftest import make_conv_net, run_onnx
from tests.graph_passes.test_write_out_functions import IMAGE, hardened
from tests.runtime.engines.engine_files import COMMAND


@pytest.fixture
def models(tmp_path: Path) -> list[Path]:
    paths = [tmp_path / "clean.onnx", tmp_path / "hardened.onnx"]
    for path, model in zip(paths, (make_conv_net(), hardened(make_conv_net())), strict=True):
        onnx.save(model, path)
    return paths


def start(paths: list[Path]) -> EngineProcess:
    return EngineProcess(Request(package="", engines=paths), "The vendor", COMMAND)


def test_each_engine_answers(models: list[Path]) -> None:
    process = start(models)
    for index, path in enumerate(models):
        found = process.infer(index, {"image": IMAGE})
        np.testing.assert_array_equal(found["restored"], run_onnx(onnx.load(path), image=IMAGE)[0])
    process.close()
    process.close()


def test_by_turns(models: list[Path]) -> None:
    seconds = start(models).time({"image": IMAGE}, 5)
    assert [len(times) for times in seconds] == [5, 5]
    assert min(map(min, seconds)) > 0


def test_a_refusal_is_one_line_and_the_process_goes_on(models: list[Path]) -> None:
    process = start(models)
    with pytest.raises(UserError, match=r"^The vendor failed: Required inputs") as caught:
        process.infer(0, {"picture": IMAGE})
    assert "\n" not in str(caught.value)
    assert process.infer(0, {"image": IMAGE})["restored"].shape == IMAGE.shape


def test_a_library_that_ends_the_process(models: list[Path], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DIE", "1")
    process = start(models)
    with pytest.raises(UserError, match=r"^The vendor ended with -6 while it held the engine: .*last words"):
        process.infer(0, {"image": IMAGE})
    with pytest.raises(UserError, match="ended with -6"):
        process.infer(0, {"image": IMAGE})


def test_one_that_died_can_be_closed(models: list[Path], monkeypatch: pytest.MonkeyPatch) -> None:
    """A question larger than the pipe holds is left unread in it."""
    monkeypatch.setenv("DIE", "1")
    process = start(models)
    large = np.zeros((1, 3, 1024, 1024), np.float32)
    with pytest.raises(UserError, match="ended with -6"):
        for _ in range(2):
            process.infer(0, {"image": large})
    process.close()


@pytest.mark.parametrize("line", ["hello", "[1]", "7", "{}", '{"size": -1}', '{"size": "x"}', '{"size": 2}xx'])
def test_an_answer_that_is_none(line: str, tmp_path: Path) -> None:
    script = tmp_path / "junk.py"
    script.write_text(f"print({line!r})")
    with pytest.raises(UserError, match="answered what kdguard does not understand"):
        EngineProcess(Request(package="", engines=[]), "The vendor", (sys.executable, str(script)))


def test_one_that_shuts_the_pipe_and_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("kdguard.runtime.engines.process.PATIENCE_S", 0.1)
    script = tmp_path / "stays.py"
    script.write_text("import os, time\nos.close(1)\ntime.sleep(600)")
    with pytest.raises(UserError, match="The vendor ended with -9 while it held the engine"):
        EngineProcess(Request(package="", engines=[]), "The vendor", (sys.executable, str(script)))


def test_a_package_that_is_not_whole() -> None:
    with pytest.raises(MissingDependencyError, match=r"^The vendor: no_such_package is not there or not whole"):
        EngineProcess(Request(package="no_such_package", engines=[]), "The vendor")


@pytest.mark.skipif(compute_capability() is not None, reason="there is a GPU")
def test_the_vendors_own_library_without_a_gpu(tmp_path: Path) -> None:
    pytest.importorskip("tensorrt_rtx")
    (tmp_path / "some.engine").write_bytes(b"ftrt" + bytes(1000))
    request = Request(package="tensorrt_rtx", engines=[tmp_path / "some.engine"], host_code_allowed=[False])
    with pytest.raises(UserError, match=r"^TensorRT-RTX (failed|ended with)"):
        EngineProcess(request, "TensorRT-RTX")
