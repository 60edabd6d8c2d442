"""Nodes for the plugin and nodes for the function."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from kdguard.graph_passes.op import op_functions
from kdguard.runtime.engines.plugin_nodes import divide
from kdguard.runtime.engines.vendor import Request
from tests.conftest import run_onnx
from tests.runtime.engines.test_timing_cache import answer

NAMESPACE = "plugin_namespace"


def projectors(*sides: int | str, dtype: int = TensorProto.FLOAT, rank: int = 2) -> onnx.ModelProto:
    """One node of ours for each Gram matrix, without the nodes around it."""
    nodes, inputs, outputs = [], [], []
    for index, side in enumerate(sides):
        node = helper.make_node("TopKProjector", [f"G{index}"], [f"U{index}"], domain="kdguard", rank=rank)
        node.attribute.append(helper.make_attribute(NAMESPACE, "somebody"))
        nodes.append(node)
        inputs.append(helper.make_tensor_value_info(f"G{index}", dtype, ["n", side, side]))
        outputs.append(helper.make_tensor_value_info(f"U{index}", dtype, ["n", side, rank]))
    graph = helper.make_graph(nodes, "g", inputs, outputs)
    function = next(function for function in op_functions(17) if function.name == "TopKProjector")
    imports = [helper.make_opsetid("", 17), helper.make_opsetid("kdguard", 1)]
    return helper.make_model(graph, functions=[function], opset_imports=imports, ir_version=8)


def namespaces(model: onnx.ModelProto) -> list[str | None]:
    named = [{a.name: a.s.decode() for a in node.attribute if a.type == a.STRING} for node in model.graph.node]
    return [attributes.get(NAMESPACE) for attributes in named]


def test_the_plugin_takes_what_its_kernel_can_work_on() -> None:
    model = projectors(16, 64, 65, 512, "c")
    division = divide(model)
    assert namespaces(division.model) == ["kdguard", "kdguard", None, None, None]
    assert (division.plugin, division.function) == (2, 3)
    assert namespaces(model) == ["somebody"] * 5


def test_only_float_matrices() -> None:
    assert divide(projectors(16, dtype=TensorProto.DOUBLE)).function == 1


@pytest.mark.parametrize(("matrix", "taken"), [("G0", 2), ("inside", 0)])
def test_of_a_body_only_what_comes_from_outside_is_known(matrix: str, taken: int) -> None:
    model = projectors(16)
    node = model.graph.node[0]
    node.input[0] = matrix
    body = helper.make_graph(
        [helper.make_node("Identity", ["G0"], ["inside"]), node], "body", [], [model.graph.output[0]]
    )
    chosen = helper.make_node("If", ["which"], ["U0"], then_branch=body, else_branch=body)
    del model.graph.node[:]
    model.graph.node.append(chosen)
    model.graph.input.append(helper.make_tensor_value_info("which", TensorProto.BOOL, []))
    division = divide(model)
    assert (division.plugin, division.function) == (taken, 2 - taken)


def test_the_answer_stays_the_same() -> None:
    model = projectors(16, 65)
    grams = {f"G{i}": np.cov(np.random.default_rng(i).standard_normal((c, 200)))[None] for i, c in enumerate((16, 65))}
    inputs = {name: gram.astype(np.float32) for name, gram in grams.items()}
    for ours, before in zip(run_onnx(divide(model).model, **inputs), run_onnx(model, **inputs), strict=True):
        assert np.array_equal(ours, before)


def test_without_a_plugin_the_parser_takes_the_function(tmp_path: Path) -> None:
    """As TensorRT-RTX does, which has no such plugins, whatever namespace a node names."""
    pytest.importorskip("tensorrt_rtx")
    onnx.save(divide(projectors(16, 65)).model, tmp_path / "model.onnx")
    request = Request(
        package="tensorrt_rtx",
        model=tmp_path / "model.onnx",
        engine=tmp_path / "e.engine",
        shapes={"G0": [[1, 16, 16]] * 3, "G1": [[1, 65, 65]] * 3},
    )
    found = answer(request)
    assert not found.refused
    assert [tensor["name"] for tensor in found.outputs] == ["U0", "U1"]
    assert (tmp_path / "e.engine").stat().st_size > 10_000
