"""Matrix products against onnxruntime's DFT, and against SciPy where onnxruntime's own differs from torch."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
import scipy.fft
from onnx import TensorProto, helper, numpy_helper

from kdguard.graph_passes.dft_as_products import DftAsProducts
from kdguard.graph_passes.pass_base import PreconditionError
from tests.conftest import make_conv_net, run_onnx

RNG = np.random.default_rng(0)


def transform(
    parts: int, axis: int, *, inverse: int = 0, onesided: int = 0, length: int | None = None, opset: int = 17
) -> onnx.ModelProto:
    """x [n, c, h, w, parts] through one DFT node."""
    names = ["x", "length" if length else ""]
    attributes = {"inverse": inverse, "onesided": onesided}
    values = [numpy_helper.from_array(np.array(length), "length")] if length else []
    if opset >= 20:
        names.append("axis")
        values.append(numpy_helper.from_array(np.array(axis), "axis"))
    else:
        attributes["axis"] = axis
    node = helper.make_node("DFT", names, ["y"], "dft", **attributes)
    graph = helper.make_graph(
        [node],
        "transform",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", "c", "h", "w", parts])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [None] * 5)],
        values,
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=10)


@pytest.mark.parametrize("opset", [17, 20])
@pytest.mark.parametrize("sides", [(6, 8), (5, 7), (1, 1)])
@pytest.mark.parametrize(("parts", "inverse", "onesided"), [(1, 0, 0), (2, 0, 0), (2, 1, 0), (1, 0, 1)])
@pytest.mark.parametrize("axis", [2, 3])
def test_against_onnxruntime(
    axis: int, parts: int, inverse: int, onesided: int, sides: tuple[int, int], opset: int
) -> None:
    model = transform(parts, axis, inverse=inverse, onesided=onesided, opset=opset)
    result = DftAsProducts()(model)
    assert result.modified
    assert all(node.op_type != "DFT" for node in result.model.graph.node)
    x = RNG.standard_normal((2, 3, *sides, parts)).astype(np.float32)
    (ours,), (theirs,) = run_onnx(result.model, x=x), run_onnx(model, x=x)
    assert ours.shape == theirs.shape
    np.testing.assert_allclose(ours, theirs, atol=2e-5)  # onnxruntime itself is 5e-6 off


@pytest.mark.parametrize("length", [4, 6, 9, 14])
def test_padded_and_cut(length: int) -> None:
    x = RNG.standard_normal((1, 2, 6, 5, 2)).astype(np.float32)
    (ours,) = run_onnx(DftAsProducts()(transform(2, 2, length=length)).model, x=x)
    expected = scipy.fft.fft(x[..., 0] + 1j * x[..., 1], length, 2)
    np.testing.assert_allclose(ours[..., 0] + 1j * ours[..., 1], expected, atol=3e-6)


@pytest.mark.parametrize("length", [None, 1, 2, 5, 8, 9, 12])
def test_one_sided_inverse_gives_the_real_signal(length: int | None) -> None:
    x = RNG.standard_normal((1, 2, 3, 5, 2)).astype(np.float32)
    (ours,) = run_onnx(DftAsProducts()(transform(2, 3, inverse=1, onesided=1, length=length)).model, x=x)
    expected = scipy.fft.irfft(x[..., 0] + 1j * x[..., 1], length, 3)
    np.testing.assert_allclose(ours[..., 0], expected, atol=1e-6)


def test_long_rows_stay_exact() -> None:
    """n m grows beyond what fp32 holds; taken modulo the length it does not."""
    x = RNG.standard_normal((1, 1, 1, 5000, 2)).astype(np.float32)
    (ours,) = run_onnx(DftAsProducts()(transform(2, 3)).model, x=x)
    expected = scipy.fft.fft(x[..., 0].astype(np.float64) + 1j * x[..., 1].astype(np.float64), axis=3)
    assert np.abs(ours[..., 0] + 1j * ours[..., 1] - expected).max() < 1e-5 * np.abs(expected).max()


def test_refusals_and_models_without() -> None:
    model = transform(2, 2, opset=20)
    model.graph.initializer.pop()
    model.graph.input.append(helper.make_tensor_value_info("axis", TensorProto.INT64, []))
    with pytest.raises(PreconditionError, match="its axis is no constant"):
        DftAsProducts()(model)
    plain = make_conv_net()
    assert DftAsProducts()(plain).model is plain
