"""A model with everything surgery tends to lose: If, Loop, a local function, a foreign domain,
metadata, doc strings, a default-valued input, a shared weight."""

from __future__ import annotations

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from tests.conftest import conv_weights

FLOAT = TensorProto.FLOAT


def value(name: str, shape: list[object] | None = None, kind: int = FLOAT) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, kind, shape)


def _if_node() -> onnx.NodeProto:
    """Both branches read the outer map `b`."""
    then = helper.make_graph(
        [helper.make_node("Relu", ["b"], ["inner"], "inner_relu"), helper.make_node("Neg", ["inner"], ["then_out"])],
        "then",
        [],
        [value("then_out")],
    )
    then.node[0].doc_string = "inside"
    then.node[0].metadata_props.add(key="inner origin", value="unit test")
    other = helper.make_graph([helper.make_node("Identity", ["b"], ["else_out"])], "else", [], [value("else_out")])
    return helper.make_node("If", ["flag"], ["chosen"], "branch", then_branch=then, else_branch=other)


def _loop_node() -> onnx.NodeProto:
    """Adds the outer map `d` to its carried value `turns` times."""
    body = helper.make_graph(
        [
            helper.make_node("Add", ["carried", "d"], ["carried_out"], "inner_add"),
            helper.make_node("Identity", ["go"], ["go_out"]),
        ],
        "body",
        [value("i", [], TensorProto.INT64), value("go", [], TensorProto.BOOL), value("carried")],
        [value("go_out", [], TensorProto.BOOL), value("carried_out")],
    )
    return helper.make_node("Loop", ["turns", "", "chosen"], ["looped"], "loop", body=body)


def make_rich_model(opset: int = 18) -> onnx.ModelProto:
    """image -> conv a -> relu b; If and Loop on top; a local function twice; conv tail, plus image."""
    double = helper.make_function(
        "users",
        "Scale",
        ["x"],
        ["y"],
        [
            helper.make_node("Constant", [], ["factor"], value_float=0.5),
            helper.make_node("Mul", ["x", "factor"], ["y"]),
        ],
        [helper.make_opsetid("", opset)],
    )
    pads = {"pads": [1, 1, 1, 1]}
    nodes = [
        helper.make_node("Conv", ["image", "wa"], ["a"], "conv_a", doc_string="first layer", **pads),
        helper.make_node("Relu", ["a"], ["b"], "relu_b"),
        helper.make_node("Conv", ["b", "wc"], ["c"], "conv_c", **pads),
        helper.make_node("Conv", ["c", "wc"], ["d"], "conv_d", **pads),
        _if_node(),
        _loop_node(),
        helper.make_node("Scale", ["looped"], ["e"], "scale_e", domain="users"),
        helper.make_node("Mul", ["e", "sharpness"], ["f"], "mul_f"),
        helper.make_node("Conv", ["f", "wt"], ["tail"], "conv_tail", **pads),
        helper.make_node("Add", ["image", "tail"], ["restored"], "add_out"),
    ]
    nodes[0].metadata_props.add(key="origin", value="unit test")
    weights = {
        "wa": conv_weights(0, 6, 3),
        "wc": conv_weights(1, 6, 6),
        "wt": conv_weights(2, 3, 6) * np.float32(0.05),
        "flag": np.array(True),
        "turns": np.array(2),
        "sharpness": np.array(0.7, np.float32),
    }
    shape = ["n", 3, "h", "w"]
    inner = ["n", 6, "h", "w"]
    graph = helper.make_graph(
        nodes,
        "rich",
        [value("image", shape), value("sharpness", [])],
        [value("restored", shape)],
        [numpy_helper.from_array(array, name) for name, array in weights.items()],
        doc_string="a graph with a story",
        value_info=[value(name, inner) for name in ("chosen", "looped", "e", "f")],
    )
    graph.metadata_props.add(key="graph note", value="kept")
    model = helper.make_model(
        graph,
        opset_imports=[helper.make_opsetid("", opset), helper.make_opsetid("users", 1)],
        functions=[double],
        ir_version=10,
        producer_name="somebody",
        doc_string="a model with a story",
    )
    model.metadata_props.add(key="licence", value="theirs")
    return model
