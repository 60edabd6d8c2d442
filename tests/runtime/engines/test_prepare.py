"""What is handed to the vendor's parser: standard operators, in the precision that was asked for."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from onnx import TensorProto

from kdguard.export.onnx_files import load_onnx
from kdguard.graph_passes.insert_svd_perturb import InsertSvdPerturb
from kdguard.graph_passes.op import SvdPerturbAttributes
from kdguard.runtime.engines.prepare import precision_of, written_out
from tests.conftest import make_conv_net, run_onnx
from tests.graph_passes.test_write_out_functions import IMAGE, hardened


def test_a_float_model_as_it_is_and_in_half() -> None:
    model = hardened(make_conv_net())
    plain, half = written_out(model), written_out(model, "fp16")
    assert not plain.functions
    assert not half.functions
    assert [precision_of(m) for m in (plain, half)] == ["fp32", "fp16"]
    (expected,) = run_onnx(model, image=IMAGE)
    np.testing.assert_array_equal(run_onnx(plain, image=IMAGE)[0], expected)
    assert 0 < np.abs(run_onnx(half, image=IMAGE)[0] - expected).max() < 2e-3


def test_sixteen_bits_stay() -> None:
    model = hardened(make_conv_net(dtype=TensorProto.FLOAT16))
    for asked in ("as-is", "fp16"):
        assert precision_of(written_out(model, asked)) == "fp16"  # type: ignore[arg-type]


def test_the_shipped_teacher(quickstart_teacher: Path) -> None:
    model = InsertSvdPerturb(["relu_*"], SvdPerturbAttributes(gain=10.0))(load_onnx(quickstart_teacher)).model
    name = model.graph.input[0].name
    ours, plain = (run_onnx(m, **{name: IMAGE})[0] for m in (model, written_out(model)))
    assert np.abs(plain - ours).max() < 1e-5
