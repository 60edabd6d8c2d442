"""Timing caches, read and written by TensorRT-RTX's builder, which has the same calls and leaves the cache empty.

`kdguard build` refuses the option for it; the process that calls the builder is tested here.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import onnx
import pytest

from kdguard.runtime.engines.vendor import Answer, Request
from tests.conftest import make_conv_net
from tests.runtime.commands.command_line import listing

SHAPE = [1, 3, 32, 32]


@pytest.fixture
def request_for(tmp_path: Path) -> Request:
    pytest.importorskip("tensorrt_rtx")
    onnx.save(make_conv_net(), tmp_path / "model.onnx")
    return Request(
        package="tensorrt_rtx",
        model=tmp_path / "model.onnx",
        engine=tmp_path / "e.engine",
        shapes={"image": [SHAPE] * 3},
        new_timing_cache=tmp_path / "new.cache",
    )


def answer(request: Request) -> Answer:
    question = request.model.with_name("request.json")
    question.write_text(request.model_dump_json())
    command = [sys.executable, "-m", "kdguard.runtime.engines.vendor", str(question)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    question.unlink()
    return Answer.model_validate(json.loads(done.stdout.splitlines()[-1]))


def test_a_cache_is_written_and_read_again(request_for: Request, tmp_path: Path) -> None:
    assert not answer(request_for).refused
    written = (tmp_path / "new.cache").read_bytes()
    assert written
    (tmp_path / "old.cache").write_bytes(written)
    again = request_for.model_copy(update={"timing_cache": tmp_path / "old.cache"})
    assert not answer(again).refused
    assert (tmp_path / "old.cache").read_bytes() == written
    assert listing(tmp_path) == ["e.engine", "model.onnx", "new.cache", "old.cache"]


@pytest.mark.parametrize("content", [b"", b"a text file\n", make_conv_net().SerializeToString()])
def test_a_file_that_is_no_cache(request_for: Request, tmp_path: Path, content: bytes) -> None:
    (tmp_path / "other").write_bytes(content)
    refused = answer(request_for.model_copy(update={"timing_cache": tmp_path / "other"})).refused
    assert "other is no timing cache of this version and GPU" in refused
    assert listing(tmp_path) == ["model.onnx", "other"]
