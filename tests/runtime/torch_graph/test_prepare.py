from __future__ import annotations

import onnx
import pytest
import torch
from onnx import helper

from kdguard.export.errors import UserError
from kdguard.graph_passes.insert_svd_perturb import InsertSvdPerturb
from kdguard.graph_passes.strip_nodes import StripNodes
from kdguard.runtime.torch_graph import GraphModule, write_back
from tests import awkward_graphs
from tests.conftest import conv_weights
from tests.graph_passes.rich_model import make_rich_model
from tests.runtime.torch_graph.agreement import compare, one_operator, values


def test_an_operator_that_nobody_has() -> None:
    message = r"^cannot be trained in torch: operator acme.vision.Mystery \(node 'mystery'\); train the model in"
    with pytest.raises(UserError, match=message):
        GraphModule(awkward_graphs.mystery_operator())


def test_bodies_are_refused() -> None:
    with pytest.raises(UserError, match=r"cannot be trained in torch: operator If \(node 'branch'\)"):
        GraphModule(make_rich_model())


def test_an_attribute_that_torch_has_no_form_of() -> None:
    model = one_operator("MaxPool", [values(1, 1, 4, 4)], kernel_shape=[2, 2], outputs=2)
    with pytest.raises(UserError, match=r"operator MaxPool \(node 'n'\) hands out the places"):
        GraphModule(model)(torch.zeros(1, 1, 4, 4))


def with_function() -> onnx.ModelProto:
    """A function that scales, called twice, around a weight of the main graph."""
    nodes = [
        helper.make_node("Scale", ["b"], ["s"], "scale_b", domain="users"),
        helper.make_node("Conv", ["s", "wc"], ["c"], "conv_c", pads=[1, 1, 1, 1]),
        helper.make_node("Scale", ["c"], ["m"], "scale_c", domain="users"),
    ]
    model = awkward_graphs.around(nodes, {"wc": conv_weights(1, 8, 8)})
    inside = [
        helper.make_node("Constant", [], ["factor"], value_floats=[0.5]),
        helper.make_node("Mul", ["x", "factor"], ["y"]),
    ]
    model.functions.append(helper.make_function("users", "Scale", ["x"], ["y"], inside, [helper.make_opsetid("", 18)]))
    model.opset_import.append(helper.make_opsetid("users", 1))
    return model


def test_functions_are_inlined_and_their_constants_are_no_weights() -> None:
    model = with_function()
    compare(model, values(1, 3, 9, 8))
    module = GraphModule(model)
    assert {name for name, _ in module.named_weights()} == {"wa", "wc", "wt"}
    assert write_back(model, module).SerializeToString(deterministic=True) == model.SerializeToString(
        deterministic=True
    )


def test_a_hardened_model_is_stripped_first(conv_net: onnx.ModelProto) -> None:
    hardened = InsertSvdPerturb(["b"], placement="paired").call(conv_net).model
    with pytest.raises(UserError, match=r"operator kdguard.SvdPerturb .*strip the model first"):
        GraphModule(hardened)
    compare(StripNodes().call(hardened).model, values(1, 3, 9, 8))
