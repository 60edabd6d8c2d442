"""Without functions, and the same bits."""

from __future__ import annotations

import numpy as np
import onnx
import pytest

from kdguard.export.graph_bodies import nodes_with_bodies
from kdguard.graph_passes.insert_svd_perturb import InsertSvdPerturb, Site
from kdguard.graph_passes.op import SvdPerturbAttributes
from kdguard.graph_passes.write_out_functions import WriteOutFunctions
from kdguard.runtime.gpu_check.subjects import VARIANTS
from tests.conftest import make_conv_net, photograph, run_onnx
from tests.graph_passes.rich_model import make_rich_model

IMAGE = photograph(40).astype(np.float32).transpose(2, 0, 1)[None] / 255


def hardened(model: onnx.ModelProto, **extra: object) -> onnx.ModelProto:
    attributes = SvdPerturbAttributes(**{"rank": 2, "gain": 10.0, **extra})
    sites = [Site("b", attributes), Site("d", attributes.model_copy(update={"gain": 1.2}), "in-path")]
    return InsertSvdPerturb(sites=sites)(model).model


@pytest.mark.parametrize("variant", VARIANTS)
def test_conditions_on_attributes_are_decided(variant: str) -> None:
    model = hardened(make_conv_net(), **VARIANTS[variant])
    result = WriteOutFunctions()(model)
    assert result.modified
    assert not result.model.functions
    kinds = [node.op_type for node in nodes_with_bodies(result.model.graph.node)]
    # What is left of them is decided by the map: whether it is finite, where the dense product is taken.
    assert kinds.count("If") <= 1
    assert kinds.count("Loop") == 2
    for ours, theirs in zip(run_onnx(result.model, image=IMAGE), run_onnx(model, image=IMAGE), strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_somebody_elses_functions_and_bodies() -> None:
    model = hardened(make_rich_model())
    result = WriteOutFunctions()(model).model
    assert not result.functions
    assert [entry.domain for entry in result.opset_import] == [""]
    for ours, theirs in zip(run_onnx(result, image=IMAGE), run_onnx(model, image=IMAGE), strict=True):
        np.testing.assert_allclose(ours, theirs, atol=1e-6)


def test_what_is_kept_keeps_its_body() -> None:
    model = hardened(make_conv_net())
    result = WriteOutFunctions(keep=["TopKProjector"])(model).model
    assert [function.name for function in result.functions] == ["TopKProjector"]
    assert [node.op_type for node in result.graph.node if node.domain == "kdguard"] == ["TopKProjector"] * 2
    np.testing.assert_array_equal(run_onnx(result, image=IMAGE)[0], run_onnx(model, image=IMAGE)[0])


def test_a_second_time_there_is_nothing_to_do() -> None:
    result = WriteOutFunctions()(hardened(make_conv_net()))
    again = WriteOutFunctions()(result.model)
    assert not again.modified
    assert again.model is result.model
