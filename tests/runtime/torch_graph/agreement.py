"""A graph of one operator, run by onnxruntime and by torch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
import torch
from onnx import helper, numpy_helper

from kdguard.runtime.torch_graph import GraphModule
from tests.conftest import run_onnx

TOLERANCE = 1e-5


def values(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def one_operator(
    operator: str,
    inputs: Sequence[np.ndarray | None],
    *,
    opset: int = 18,
    outputs: int = 1,
    domain: str = "",
    **attributes: Any,
) -> onnx.ModelProto:
    """The first input is the graph's, the others are initializers; None leaves one out."""
    names = [f"i{index}" if value is not None else "" for index, value in enumerate(inputs)]
    node = helper.make_node(operator, names, [f"o{k}" for k in range(outputs)], "n", domain=domain, **attributes)
    constants = [(name, value) for name, value in zip(names[1:], inputs[1:], strict=True) if value is not None]
    image = inputs[0]
    graph = helper.make_graph(
        [node],
        "one operator",
        [helper.make_tensor_value_info("i0", helper.np_dtype_to_tensor_dtype(image.dtype), image.shape)],
        [onnx.ValueInfoProto(name=name) for name in node.output],
        [numpy_helper.from_array(value, name) for name, value in constants],
    )
    imports = [helper.make_opsetid("", opset), *([helper.make_opsetid(domain, 1)] if domain else [])]
    return helper.make_model(graph, opset_imports=imports, ir_version=10)


def relative_error(got: np.ndarray, expected: np.ndarray) -> float:
    """Largest difference over the largest value."""
    if not expected.size:
        return 0.0
    difference = np.abs(got.astype(np.float64) - expected.astype(np.float64)).max()
    return float(difference / max(np.abs(expected.astype(np.float64)).max(), 1e-30))


def compare(model: onnx.ModelProto, image: np.ndarray, tolerance: float = TOLERANCE) -> None:
    """All outputs in both runtimes: same shapes, same kinds of number, same values."""
    name = model.graph.input[0].name
    expected = run_onnx(model, **{name: image})
    names = [value.name for value in model.graph.output]
    with torch.no_grad():
        got = GraphModule(model)(torch.from_numpy(image), taps=names[1:])
    for expected_output, output in zip(expected, got, strict=True):
        values_got = output.numpy()
        assert values_got.shape == expected_output.shape
        assert values_got.dtype.kind == expected_output.dtype.kind
        assert relative_error(values_got, expected_output) <= tolerance


def agree(operator: str, inputs: Sequence[np.ndarray | None], tolerance: float = TOLERANCE, **options: Any) -> None:
    compare(one_operator(operator, inputs, **options), inputs[0], tolerance)
