"""The model that an engine is built from answers like the one it was made of."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto

from kdguard.export.onnx_files import load_onnx
from kdguard.graph_passes.insert_svd_perturb import InsertSvdPerturb, Site
from kdguard.graph_passes.inventory import hardened_layers
from kdguard.graph_passes.op import SvdPerturbAttributes
from kdguard.runtime.engines.prepare import in_precision, written_out
from kdguard.runtime.session import expose_taps
from tests.conftest import make_conv_net, photograph, run_onnx
from tests.runtime.kernels.test_amplify import VARIANTS

IMAGE = photograph(40).astype(np.float32).transpose(2, 0, 1)[None] / 255


def hardened(**extra: object) -> onnx.ModelProto:
    attributes = SvdPerturbAttributes(**{"rank": 2, "gain": 10.0, **extra})
    sites = [Site("b", attributes), Site("d", attributes.model_copy(update={"gain": 1.2}), "in-path")]
    return InsertSvdPerturb(sites=sites)(make_conv_net()).model


@pytest.mark.parametrize("variant", VARIANTS)
def test_written_out_it_answers_the_same(variant: str) -> None:
    model = expose_taps(hardened(**VARIANTS[variant]), ("b", "d"))
    plain = written_out(model)
    assert not plain.functions
    assert {node.domain for node in plain.graph.node} <= {"", "ai.onnx"}
    for ours, theirs in zip(run_onnx(plain, image=IMAGE), run_onnx(model, image=IMAGE), strict=True):
        assert np.abs(ours - theirs).max() < 1e-5 * np.abs(theirs).max()


def test_half_precision_keeps_nodes_inputs_and_answers() -> None:
    model = hardened(modulation=2, pattern=(0.3, -1.2, 0.7), centred=True)
    half = in_precision(model, "fp16")
    assert hardened_layers(half) == hardened_layers(model)
    assert half.graph.input[0].type.tensor_type.elem_type == TensorProto.FLOAT
    weights = {tensor.name: tensor.data_type for tensor in half.graph.initializer}
    assert weights["wa"] == weights["wc"] == TensorProto.FLOAT16
    before, after = (run_onnx(m, image=IMAGE)[0] for m in (model, written_out(half)))
    assert after.dtype == np.float32
    # A sign here and there falls the other way, so the mean tells and not the worst pixel.
    assert 0 < np.abs(after - before).mean() < 1e-4


def test_single_precision_is_the_model_itself() -> None:
    model = hardened()
    assert in_precision(model, "fp32") is model
    assert in_precision(make_conv_net(), "fp16").graph.initializer[0].data_type == TensorProto.FLOAT16


def test_the_shipped_teacher(quickstart_teacher: Path) -> None:
    model = InsertSvdPerturb(["relu_*"], SvdPerturbAttributes(gain=10.0))(load_onnx(quickstart_teacher)).model
    name = model.graph.input[0].name
    clean, half = (run_onnx(m, **{name: IMAGE})[0] for m in (model, written_out(in_precision(model, "fp16"))))
    assert np.abs(half - clean).max() < 2e-2
