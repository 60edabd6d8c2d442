"""bfloat16: models that only store it run on a CPU; those that compute in it end in one line there."""

from __future__ import annotations

from pathlib import Path

import ml_dtypes
import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from kdguard.export.errors import MissingDependencyError
from kdguard.export.model_card import read_card
from kdguard.export.onnx_files import load_onnx, save_onnx
from kdguard.graph_passes.op import SvdPerturbAttributes
from kdguard.runtime.float_edges import with_float_edges
from kdguard.runtime.gpu import has_gpu
from kdguard.runtime.harden import HardenOptions, harden
from kdguard.runtime.resolve_card import guess_card
from kdguard.runtime.session import RestorationSession
from tests.awkward_graphs import PADS
from tests.conftest import conv_weights, make_conv_net, make_model, photograph
from tests.runtime.commands.command_line import CommandLine

OPSET = 22
"""Conv takes bfloat16 since then."""
IMAGE = photograph(37).astype(np.float32) / 255
OPTIONS = HardenOptions(["b"], attributes=SvdPerturbAttributes(rank=2, gain=10.0))


def computing() -> onnx.ModelProto:
    """`make_conv_net` in bfloat16 throughout."""
    model = make_conv_net(opset=OPSET)
    for tensor in model.graph.initializer:
        values = numpy_helper.to_array(tensor).astype(ml_dtypes.bfloat16)
        tensor.CopyFrom(numpy_helper.from_array(values, tensor.name))
    for value in (*model.graph.input, *model.graph.output):
        value.type.tensor_type.elem_type = TensorProto.BFLOAT16
    return model


def storing() -> onnx.ModelProto:
    """bfloat16 at the edges and in the map b, float32 in between."""
    nodes = [
        helper.make_node("Cast", ["image"], ["wide"], to=TensorProto.FLOAT),
        helper.make_node("Conv", ["wide", "wa"], ["a"], "conv_a", **PADS),
        helper.make_node("Cast", ["a"], ["b"], "store", to=TensorProto.BFLOAT16),
        helper.make_node("Cast", ["b"], ["c"], to=TensorProto.FLOAT),
        helper.make_node("Conv", ["c", "wt"], ["tail"], "conv_tail", **PADS),
        helper.make_node("Add", ["wide", "tail"], ["sum"], "add"),
        helper.make_node("Cast", ["sum"], ["restored"], to=TensorProto.BFLOAT16),
    ]
    weights = {"wa": conv_weights(0, 8, 3), "wt": conv_weights(2, 3, 8) * np.float32(0.02)}
    return make_model(nodes, weights, dtype=TensorProto.BFLOAT16, opset=OPSET)


def test_models_that_store_it_run(tmp_path: Path, pairs_folder: Path) -> None:
    model = storing()
    session = RestorationSession(model, guess_card(model, "denoising"), taps=["b"])
    restored = session.restore(IMAGE)
    assert restored.dtype == np.float32
    np.testing.assert_array_equal(restored, restored.astype(ml_dtypes.bfloat16).astype(np.float32))
    assert np.abs(restored - IMAGE).mean() < 0.1
    save_onnx(model, tmp_path / "t.onnx")
    manifest = harden(tmp_path / "t.onnx", tmp_path / "h.onnx", OPTIONS, task="denoising", data=pairs_folder)
    assert manifest.fidelity is not None
    assert manifest.fidelity.psnr_between_db > 45  # eight bits of mantissa
    assert (manifest.layers[0].relative_distortion or 0) > 1


def test_others_are_left_alone() -> None:
    model = make_conv_net()
    assert with_float_edges(model) is model


@pytest.mark.skipif(has_gpu(), reason="a GPU has the kernels")
def test_models_that_compute_in_it_end_in_one_line(
    tmp_path: Path, pairs_folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    save_onnx(computing(), tmp_path / "t.onnx")
    with pytest.raises(MissingDependencyError, match="without `--data`"):
        harden(tmp_path / "t.onnx", tmp_path / "h.onnx", OPTIONS, task="denoising", data=pairs_folder)
    kdguard = CommandLine(capsys, monkeypatch)
    common = ["--layers", "b", "--task", "denoising"]
    line = kdguard.refuses(
        "harden", tmp_path / "t.onnx", "-o", tmp_path / "h.onnx", *common, "--data", pairs_folder, code=3
    )
    assert "bfloat16 mostly needs a GPU" in line
    assert not (tmp_path / "h.onnx").exists()
    # Insertion alone needs no machine that runs it.
    assert kdguard("harden", tmp_path / "t.onnx", "-o", tmp_path / "h.onnx", *common) == 0, kdguard.err
    assert "no model card" in kdguard.out
    assert kdguard.err == ""
    assert read_card(load_onnx(tmp_path / "h.onnx")) is None
