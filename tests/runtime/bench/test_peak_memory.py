"""Peak memory is that of the model, not of whoever asks."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import helper

from kdguard.export.errors import UserError
from kdguard.export.model_card import ModelCard
from kdguard.export.onnx_files import save_onnx
from kdguard.graph_passes.insert_svd_perturb import InsertSvdPerturb
from kdguard.runtime.bench.peak_memory import measure_memory
from kdguard.runtime.bench.subject import Subject
from kdguard.runtime.engines.shapes import Size
from kdguard.runtime.kernels.build import FOLDER_VARIABLE, library_path
from tests.conftest import conv_weights, make_model

CARD = ModelCard(task="deraining", input_name="image", output_name="restored")
MIB = 2**20


def wide(channels: int) -> onnx.ModelProto:
    """Holds two maps of so many channels at once."""
    pads = {"pads": [1, 1, 1, 1]}
    nodes = [
        helper.make_node("Conv", ["image", "w1"], ["a"], **pads),
        helper.make_node("Sigmoid", ["a"], ["b"]),
        helper.make_node("Mul", ["a", "b"], ["c"]),
        helper.make_node("Conv", ["c", "w2"], ["restored"], **pads),
    ]
    return make_model(nodes, {"w1": conv_weights(0, channels, 3), "w2": conv_weights(1, 3, channels)})


def test_a_large_map_shows_and_the_parents_memory_does_not(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(FOLDER_VARIABLE, str(tmp_path))
    library_path().write_bytes(b"not what was built, which the process says on its standard output")
    models = wide(4), InsertSvdPerturb(["c"])(wide(256)).model
    files = tmp_path / "small.onnx", tmp_path / "large.onnx"
    for model, path in zip(models, files, strict=True):
        save_onnx(model, path)
    ballast = np.ones(512 * MIB // 8)
    found = measure_memory(Subject(*files, models, CARD, Size(192, 192)), "cpu", 1)
    assert ballast[-1] == 1
    assert 20 < found.imports_mib < 400
    map_mib = 252 * 192 * 192 * 4 / MIB
    assert found.hardened_mib - found.clean_mib > map_mib
    assert found.clean_mib < map_mib


def test_a_process_that_fails_is_one_line(tmp_path: Path) -> None:
    broken = tmp_path / "broken.onnx"
    broken.write_bytes(b"words")
    model = make_model([helper.make_node("Relu", ["image"], ["restored"])], {})
    asked = Subject(broken, broken, (model, model), CARD, Size(16, 16))
    with pytest.raises(UserError, match=r"the memory of .*broken\.onnx ended with 1: .*not an ONNX file"):
        measure_memory(asked, "cpu", 1)
