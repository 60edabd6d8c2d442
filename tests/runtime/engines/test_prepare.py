"""What is handed to the vendor's parser: standard operators, in the precision that was asked for."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper

from kdguard.export.graph_bodies import nodes_with_bodies, subgraphs
from kdguard.export.onnx_files import load_onnx
from kdguard.graph_passes.insert_key_gate import gate_model, with_required_key
from kdguard.graph_passes.insert_svd_perturb import InsertSvdPerturb
from kdguard.graph_passes.key_gate import key_tensor
from kdguard.graph_passes.op import SvdPerturbAttributes
from kdguard.runtime.engines.prepare import precision_of, written_out
from tests.conftest import make_conv_net, run_onnx
from tests.graph_passes.key_gate.gate_models import secret
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


def test_a_fourier_transform_inside_a_function() -> None:
    inner = helper.make_node("DFT", ["x"], ["y"], axis=2)
    function = helper.make_function("users", "Spectrum", ["x"], ["y"], [inner], [helper.make_opsetid("", 18)])
    graph = helper.make_graph(
        [helper.make_node("Spectrum", ["image"], ["spectrum"], domain="users")],
        "spectrum",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, [1, 1, 6, 4, 1])],
        [helper.make_tensor_value_info("spectrum", TensorProto.FLOAT, [1, 1, 6, 4, 2])],
    )
    imports = [helper.make_opsetid("", 18), helper.make_opsetid("users", 1)]
    model = helper.make_model(graph, functions=[function], opset_imports=imports, ir_version=10)
    plain = written_out(model)
    assert "DFT" not in {node.op_type for node in plain.graph.node}
    image = np.random.default_rng(0).random((1, 1, 6, 4, 1)).astype(np.float32)
    found, expected = (run_onnx(m, image=image)[0] for m in (plain, model))
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_the_shipped_teacher(quickstart_teacher: Path) -> None:
    model = InsertSvdPerturb(["relu_*"], SvdPerturbAttributes(gain=10.0))(load_onnx(quickstart_teacher)).model
    name = model.graph.input[0].name
    ours, plain = (run_onnx(m, **{name: IMAGE})[0] for m in (model, written_out(model)))
    assert np.abs(plain - ours).max() < 1e-5


def test_a_key_gate_answers_the_same() -> None:
    model = with_required_key(gate_model(hardened(make_conv_net()), [secret(0)], ["b"]))
    plain = written_out(model)
    assert not plain.functions
    # TensorRT-RTX compiles no loop inside a condition.
    conditions = [node for node in plain.graph.node if node.op_type == "If"]
    inside = nodes_with_bodies(node for condition in conditions for body in subgraphs(condition) for node in body.node)
    assert "Loop" not in {node.op_type for node in inside}
    for key in (np.zeros(1024, np.float32), key_tensor(secret(0))):
        answers = (run_onnx(m, image=IMAGE, kdguard_key=key) for m in (plain, model))
        for ours, theirs in zip(*answers, strict=True):
            np.testing.assert_allclose(ours, theirs, atol=1e-5)


def test_precision_where_weights_are_constants_or_there_are_none() -> None:
    half = written_out(hardened(make_conv_net()), "fp16")
    constants = onnx.ModelProto()
    constants.CopyFrom(half)
    del constants.graph.initializer[:]
    for tensor in half.graph.initializer:
        constants.graph.node.insert(0, helper.make_node("Constant", [], [tensor.name], value=tensor))
    assert precision_of(constants) == "fp16"
    relu = helper.make_graph(
        [helper.make_node("Relu", ["image"], ["b"]), helper.make_node("Abs", ["b"], ["restored"])],
        "relu",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT16, [1, 3, "h", "w"])],
        [helper.make_tensor_value_info("restored", TensorProto.FLOAT16, [1, 3, "h", "w"])],
    )
    bare = helper.make_model(relu, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    assert precision_of(bare) == "fp16"
    with_op = InsertSvdPerturb(["b"], SvdPerturbAttributes(gain=2.0))(bare).model
    assert precision_of(written_out(with_op)) == "fp16"
