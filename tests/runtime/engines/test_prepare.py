"""The model that an engine is built from answers like the one it was made of."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto

from kdguard.export.errors import UserError
from kdguard.export.onnx_files import load_onnx
from kdguard.graph_passes.insert_svd_perturb import InsertSvdPerturb, Site
from kdguard.graph_passes.op import SvdPerturbAttributes
from kdguard.runtime.engines.prepare import written_out
from kdguard.runtime.gpu_check.subjects import VARIANTS
from kdguard.runtime.session import expose_taps
from tests.conftest import make_conv_net, photograph, run_onnx

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


def test_what_is_not_written_out() -> None:
    with pytest.raises(UserError, match="this one is in fp16"):
        written_out(make_conv_net(dtype=TensorProto.FLOAT16))


def test_the_shipped_teacher(quickstart_teacher: Path) -> None:
    model = InsertSvdPerturb(["relu_*"], SvdPerturbAttributes(gain=10.0))(load_onnx(quickstart_teacher)).model
    name = model.graph.input[0].name
    ours, plain = (run_onnx(m, **{name: IMAGE})[0] for m in (model, written_out(model)))
    assert np.abs(plain - ours).max() < 1e-5
