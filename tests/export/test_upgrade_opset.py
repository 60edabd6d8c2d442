"""Old models raised to a newer opset: same answers, nothing lost, or a refusal that says why."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from kdguard.export.errors import UserError
from kdguard.export.onnx_files import default_opset
from kdguard.export.upgrade_opset import TARGET_OPSET, upgrade_opset
from tests.conftest import conv_weights, make_conv_net, make_model, photograph, run_onnx
from tests.graph_passes.rich_model import make_rich_model, value

IMAGE = (photograph(40).transpose(2, 0, 1)[None] / 255).astype(np.float32)


def with_branch(model: onnx.ModelProto) -> onnx.ModelProto:
    """`make_conv_net` with an If behind b, whose bodies use operators that changed in opset 13."""

    def body(result: str) -> onnx.GraphProto:
        nodes = [
            helper.make_node("Unsqueeze", ["b"], [f"{result}_long"], axes=[0]),
            helper.make_node("Squeeze", [f"{result}_long"], [result], axes=[0]),
        ]
        return helper.make_graph(nodes, result, [], [value(result)])

    model.graph.initializer.append(numpy_helper.from_array(np.array(True), "flag"))
    branch = helper.make_node("If", ["flag"], ["chosen"], "branch", then_branch=body("yes"), else_branch=body("no"))
    model.graph.node.insert(2, branch)
    model.graph.node[3].input[0] = "chosen"
    return model


def squeezing(opset: int) -> onnx.ModelProto:
    """Operators whose attributes became inputs, or whose meaning changed, on the way to 17."""
    nodes = [
        helper.make_node("ReduceMean", ["image"], ["mean"], axes=[2, 3], keepdims=1),
        helper.make_node("Squeeze", ["mean"], ["flat"], axes=[2, 3]),
        helper.make_node("Softmax", ["flat"], ["soft"], axis=1),
        helper.make_node("Unsqueeze", ["soft"], ["map"], axes=[2, 3]),
        helper.make_node("Softmax", ["image"], ["everything"], axis=1),
        helper.make_node("Mul", ["everything", "map"], ["scaled"]),
        helper.make_node("Resize", ["scaled", "roi", "scales"], ["restored"], mode="linear"),
    ]
    weights = {"roi": np.zeros(0, np.float32), "scales": np.array([1, 1, 2, 2], np.float32)}
    return make_model(nodes, weights, opset=opset, output_shape=("n", 3, "h2", "w2"))


def old_resize(opset: int) -> onnx.ModelProto:
    """The converter alone gets this wrong: other places for the samples."""
    nodes = [
        helper.make_node("Upsample" if opset < 10 else "Resize", ["image", "scales"], ["restored"], mode="linear"),
    ]
    weights = {"scales": np.array([1, 1, 2, 2], np.float32)}
    return make_model(nodes, weights, opset=opset, output_shape=("n", 3, "h2", "w2"))


@pytest.mark.parametrize(
    "model",
    [
        *(make_conv_net(opset=opset) for opset in (9, 11, 12, 13, 14, 15, 16)),
        make_conv_net(width=40, opset=11),  # weights over 4 kB take the other path
        make_conv_net(dtype=TensorProto.FLOAT16, opset=11),
        with_branch(make_conv_net(opset=11)),
        squeezing(11),
        squeezing(12),
        old_resize(9),
        old_resize(10),
    ],
)
def test_same_answers(model: onnx.ModelProto) -> None:
    before = model.SerializeToString()
    upgraded = upgrade_opset(model)
    assert model.SerializeToString() == before
    assert default_opset(upgraded) == TARGET_OPSET
    onnx.checker.check_model(upgraded, full_check=True)
    image = IMAGE.astype(np.float16 if model.graph.input[0].type.tensor_type.elem_type == 10 else np.float32)
    np.testing.assert_array_equal(run_onnx(upgraded, image=image)[0], run_onnx(model, image=image)[0])


def test_new_models_stay_as_they_are() -> None:
    model = make_conv_net(opset=18)
    assert upgrade_opset(model) is model


def test_weights_metadata_and_names_survive() -> None:
    model = make_conv_net(width=40, opset=12)
    model.ir_version = 3
    for tensor in model.graph.initializer:
        model.graph.input.append(helper.make_tensor_value_info(tensor.name, tensor.data_type, tensor.dims))
    model.metadata_props.add(key="licence", value="theirs")
    model.graph.metadata_props.add(key="graph note", value="kept")
    model.graph.node[0].metadata_props.add(key="origin", value="unit test")
    model.graph.node[0].doc_string = "first layer"
    model.graph.value_info.append(helper.make_tensor_value_info("b", TensorProto.FLOAT, ["n", 40, "h", "w"]))
    upgraded = upgrade_opset(model)
    assert upgraded.metadata_props == model.metadata_props
    assert upgraded.graph.metadata_props == model.graph.metadata_props
    assert upgraded.graph.node[0].metadata_props == model.graph.node[0].metadata_props
    assert upgraded.graph.node[0].doc_string == "first layer"
    assert list(upgraded.graph.initializer) == list(model.graph.initializer)
    assert list(upgraded.graph.input) == list(model.graph.input)
    assert list(upgraded.graph.value_info) == list(model.graph.value_info)  # no symbols of the converter's
    assert [(n.name, list(n.output)) for n in upgraded.graph.node] == [
        (n.name, list(n.output)) for n in model.graph.node
    ]


def test_operators_of_onnxruntime_survive() -> None:
    model = make_conv_net(opset=13)
    model.opset_import.append(helper.make_opsetid("com.microsoft", 1))
    model.graph.node[1].op_type, model.graph.node[1].domain = "Gelu", "com.microsoft"
    upgraded = upgrade_opset(model)
    np.testing.assert_array_equal(run_onnx(upgraded, image=IMAGE)[0], run_onnx(model, image=IMAGE)[0])


def test_what_would_be_lost_is_refused() -> None:
    with pytest.raises(UserError, match=r"m\.onnx uses opset 13 .* functions \('Scale' first\) would be lost"):
        upgrade_opset(make_rich_model(13), "m.onnx")
    sparse = make_conv_net(opset=13)
    values = numpy_helper.from_array(np.ones(1, np.float32), "sparse")
    indices = numpy_helper.from_array(np.zeros(1, np.int64), "indices")
    sparse.graph.sparse_initializer.append(helper.make_sparse_tensor(values, indices, [3]))
    with pytest.raises(UserError, match="sparse weights would be lost"):
        upgrade_opset(sparse)


def test_what_cannot_be_converted_is_refused() -> None:
    model = make_model([helper.make_node("Scan", ["image"], ["restored"], body=_scan_body())], {}, opset=8)
    with pytest.raises(UserError, match="cannot be converted to 17") as caught:
        upgrade_opset(model)
    assert "\n" not in str(caught.value)


def _scan_body() -> onnx.GraphProto:
    return helper.make_graph(
        [helper.make_node("Conv", ["x", "w"], ["y"])],
        "body",
        [value("x")],
        [value("y")],
        [numpy_helper.from_array(conv_weights(0, 3, 3), "w")],
    )
