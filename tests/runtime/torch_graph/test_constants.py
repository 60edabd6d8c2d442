from __future__ import annotations

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper

from tests.conftest import make_model
from tests.runtime.torch_graph.agreement import agree, compare, values


def test_constant_of_shape() -> None:
    agree("ConstantOfShape", [np.array([2, 3])])
    agree("ConstantOfShape", [np.array([2, 3])], value=numpy_helper.from_array(np.array([7])))


def test_range_and_eye() -> None:
    agree("Range", [np.array(1), np.array(8), np.array(3)])
    agree("Range", [np.array(2.0, np.float32), np.array(-1.0, np.float32), np.array(-0.5, np.float32)])
    agree("EyeLike", [values(3, 5)], k=1, dtype=TensorProto.FLOAT)


@pytest.mark.parametrize("to", [TensorProto.INT64, TensorProto.INT32, TensorProto.BOOL, TensorProto.DOUBLE])
def test_cast(to: int) -> None:
    agree("Cast", [np.array([-1.7, -0.2, 0.0, 0.9, 2.5], np.float32)], to=to)


def test_cast_like() -> None:
    agree("CastLike", [np.array([1, 2]), values(1)])


def test_constant_nodes() -> None:
    nodes = [
        helper.make_node("Constant", [], ["half"], value_float=0.5),
        helper.make_node("Constant", [], ["per_channel"], value=numpy_helper.from_array(values(3, 1, 1), "")),
        helper.make_node("Constant", [], ["row"], value_floats=[0.5, 2.0]),
        helper.make_node("Constant", [], ["one"], value_int=1),
        helper.make_node("Constant", [], ["axes"], value_ints=[2, 3]),
        helper.make_node("Mul", ["image", "half"], ["a"]),
        helper.make_node("Mul", ["a", "per_channel"], ["b"]),
        helper.make_node("ReduceMean", ["b", "axes"], ["c"]),
        helper.make_node("Add", ["b", "c"], ["d"]),
        helper.make_node("Gather", ["row", "one"], ["two"]),
        helper.make_node("Mul", ["d", "two"], ["restored"]),
    ]
    compare(make_model(nodes, {}), values(1, 3, 5, 6))
