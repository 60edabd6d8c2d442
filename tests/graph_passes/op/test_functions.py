"""The local functions as ONNX objects: legal, self-contained, usable many times in one graph."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from kdguard.graph_passes.op import DOMAIN, MIN_OPSET, OP_TYPES, VERSION, SvdPerturbAttributes, op_functions
from tests.conftest import run_onnx
from tests.graph_passes.op.op_models import op_model


@pytest.mark.parametrize("opset", [15, 18, 23])
def test_passes_full_checker_and_strict_inference(opset: int) -> None:
    model = op_model(SvdPerturbAttributes(), opset=opset)
    onnx.checker.check_model(model, full_check=True)
    onnx.shape_inference.infer_shapes(model, check_type=True, strict_mode=True, data_prop=True)


def test_uses_standard_ops_and_itself_only() -> None:
    def domains(nodes: list[onnx.NodeProto]) -> set[tuple[str, str]]:
        found = {(n.domain, n.op_type) for n in nodes if n.domain}
        for node in nodes:
            for attribute in node.attribute:
                if attribute.type == onnx.AttributeProto.GRAPH:
                    found |= domains(list(attribute.g.node))
        return found

    for function in op_functions(18):
        assert function.domain == DOMAIN
        assert domains(list(function.node)) <= {(DOMAIN, name) for name in OP_TYPES}


def test_too_old_opset_is_refused() -> None:
    with pytest.raises(ValueError, match="opset 14"):
        op_functions(MIN_OPSET - 1)


def test_maps_of_different_sizes_in_one_graph() -> None:
    """A symbol such as P in the function would tie every map of a model to one size.

    onnxruntime then re-uses buffers between them and fails, or worse.
    """
    attributes = SvdPerturbAttributes(rank=2, gain=4.0)
    common = {"domain": DOMAIN, **attributes.node_attributes()}
    graph = helper.make_graph(
        [
            helper.make_node("SvdPerturb", ["X"], ["big", "U1", "m1"], **common),
            helper.make_node("MaxPool", ["big"], ["pooled"], kernel_shape=[2, 2], strides=[2, 2]),
            helper.make_node("Concat", ["pooled", "pooled"], ["wide"], axis=1),
            helper.make_node("SvdPerturb", ["wide"], ["Y", "U2", "m2"], **common),
        ],
        "sizes",
        [helper.make_tensor_value_info("X", TensorProto.FLOAT, ["n", 6, "h", "w"])],
        [helper.make_tensor_value_info("Y", TensorProto.FLOAT, ["n", 12, "h2", "w2"])],
    )
    model = helper.make_model(
        graph,
        opset_imports=[helper.make_opsetid("", 18), helper.make_opsetid(DOMAIN, VERSION)],
        functions=op_functions(18),
        ir_version=10,
    )
    for size in (8, 32):
        (Y,) = run_onnx(model, X=np.random.default_rng(0).standard_normal((1, 6, size, size)).astype(np.float32))
        assert Y.shape == (1, 12, size // 2, size // 2)


def test_attributes_refuse_what_is_not_there_yet() -> None:
    for field, value in {"adaptive": 0.5, "modulation": 1, "coherence": 2.0, "gain": 0.0, "rank": 17}.items():
        with pytest.raises(ValueError, match=field):
            SvdPerturbAttributes(**{field: value})
