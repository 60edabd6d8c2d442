"""fp16 weights and maps around an op that stays exact."""

from __future__ import annotations

import numpy as np
import onnx
import onnx.parser
import pytest
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator

from kdguard.graph_passes.half_precision import HalfPrecision
from kdguard.graph_passes.insert_key_gate import gate_model
from kdguard.graph_passes.inventory import hardened_layers
from kdguard.graph_passes.key_gate import key_tensor
from kdguard.graph_passes.op.functions import op_functions
from kdguard.graph_passes.pass_base import PreconditionError
from kdguard.graph_passes.remove_key_gate import RemoveKeyGate
from tests.conftest import make_conv_net, run_onnx
from tests.graph_passes.key_gate.gate_models import secret
from tests.graph_passes.rich_model import make_rich_model
from tests.graph_passes.test_write_out_functions import IMAGE, hardened


def test_weights_and_maps_become_half() -> None:
    model = hardened(make_conv_net())
    result = HalfPrecision()(model)
    assert result.modified
    half = result.model
    # What the op needs of its own, its strength, stays float.
    assert {tensor.name for tensor in half.graph.initializer if tensor.data_type != TensorProto.FLOAT16} == {
        "kdguard/strength"
    }
    assert [(layer.layer, layer.attributes) for layer in hardened_layers(half)] == [
        (layer.layer, layer.attributes) for layer in hardened_layers(model)
    ]
    assert [f.name for f in half.functions] == [f.name for f in op_functions(18, exact_change=True)]
    assert [value.type.tensor_type.elem_type for value in (*half.graph.input, *half.graph.output)] == [
        TensorProto.FLOAT
    ] * 2
    (ours,), (theirs,) = run_onnx(half, image=IMAGE), run_onnx(model, image=IMAGE)
    assert 0 < np.abs(ours - theirs).max() < 2e-3


def test_the_perturbed_map_is_half() -> None:
    half = HalfPrecision()(hardened(make_conv_net())).model
    half.graph.output.append(onnx.ValueInfoProto(name="b"))
    (_, tapped) = run_onnx(half, image=IMAGE)
    assert tapped.dtype == np.float16


def test_somebody_elses_functions() -> None:
    model = hardened(make_rich_model())
    half = HalfPrecision()(model).model
    assert {function.domain for function in half.functions} == {"kdguard"}
    (ours,), (theirs,) = run_onnx(half, image=IMAGE), run_onnx(model, image=IMAGE)
    assert np.abs(ours - theirs).max() < 5e-3


def test_a_half_model_is_handed_back() -> None:
    model = make_conv_net(dtype=TensorProto.FLOAT16)
    assert HalfPrecision()(model).model is model


def test_bfloat16_is_refused() -> None:
    model = make_conv_net()
    weight = numpy_helper.to_array(model.graph.initializer[0])
    model.graph.initializer[0].CopyFrom(
        helper.make_tensor("wa", TensorProto.BFLOAT16, weight.shape, weight.ravel().tolist())
    )
    with pytest.raises(PreconditionError, match="bfloat16"):
        HalfPrecision()(model)


def test_a_key_gate_stays_float() -> None:
    """In fp16 the sums of its hash would overflow, and no key would open."""
    model = hardened(make_conv_net())
    gated = HalfPrecision()(gate_model(model, [secret(0)], ["b"])).model
    without = HalfPrecision()(model).model
    assert RemoveKeyGate()(gated).model == without
    assert np.array_equal(run_onnx(gated, image=IMAGE)[0], run_onnx(without, image=IMAGE)[0])
    hint = run_onnx(gated, image=IMAGE, kdguard_key=key_tensor(secret(0)))[1]
    assert (hint.shape[:2], hint.dtype) == ((1, 4), np.float32)
    assert HalfPrecision()(gated).model is gated


def formula(body: str, constants: str) -> onnx.ModelProto:
    head = '<ir_version: 9, opset_import: ["": 18]> g (float[1, 3, 32, 32] x) => (float[N, C, H, W] y)'
    return onnx.parser.parse_model(f"{head} <{constants}> {{ {body} }}")


LAYER_NORM = """big = Mul (x, scale) mean = ReduceMean (big, axis) apart = Sub (big, mean) squares = Pow (apart, two)
    variance = ReduceMean (squares, axis) safe = Add (variance, eps) deviation = Sqrt (safe)
    y = Div (apart, deviation)"""


@pytest.mark.parametrize(
    ("body", "constants", "tolerance"),
    [
        # Squares of 500 are beyond 65504; so is the variance before its root is taken.
        (LAYER_NORM, "float scale = {1000.0}, float two = {2.0}, float eps = {1e-5}, int64[1] axis = {1}", 0.1),
        ("big = Mul (x, k) e = Exp (big) y = Log (e)", "float k = {14.0}", 0.02),
        ("big = Mul (x, k) y = Div (big, k)", "float k = {100000.0}", 1e-3),
        ("sum = Add (x, k) y = Div (k, sum)", "float k = {1e-9}", 1e-8),
    ],
    ids=["layer norm", "exponential", "large constant", "small constant"],
)
def test_formulas_keep_their_range(body: str, constants: str, tolerance: float) -> None:
    """By onnx's reference, which really computes in fp16; onnxruntime's CPU provider makes such operators float."""
    model = formula(body, constants)
    x = np.random.default_rng(0).random((1, 3, 32, 32)).astype(np.float32)
    half = HalfPrecision()(model).model
    expected, found = (ReferenceEvaluator(m).run(None, {"x": x})[0] for m in (model, half))
    assert np.isfinite(found).all()
    assert np.abs(found - expected).max() < tolerance


def test_a_body_that_the_converter_cannot_do_is_refused() -> None:
    def branch(node: onnx.NodeProto) -> onnx.GraphProto:
        return helper.make_graph([node], "branch", [], [helper.make_empty_tensor_value_info(node.output[0])])

    body = branch(helper.make_node("Max", ["x", "floor"], ["higher"]))
    other = branch(helper.make_node("Identity", ["x"], ["same"]))
    model = formula("y = Relu (x)", "float floor = {0.1}, bool flag = {1}")
    model.graph.node.insert(0, helper.make_node("If", ["flag"], ["chosen"], then_branch=body, else_branch=other))
    model.graph.node[1].input[0] = "chosen"
    with pytest.raises(PreconditionError, match="operators inside If and Loop bodies are a usual cause"):
        HalfPrecision()(model)


def test_one_half_constant_does_not_make_a_half_model() -> None:
    model = make_conv_net()
    model.graph.initializer.append(numpy_helper.from_array(np.array(1, np.float16), "unused"))
    assert HalfPrecision()(model).modified
