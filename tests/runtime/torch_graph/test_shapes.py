from __future__ import annotations

import numpy as np
import onnx
import torch
from onnx import helper

from kdguard.runtime.torch_graph import GraphModule
from tests.conftest import make_model
from tests.runtime.torch_graph.agreement import agree, compare, values

MAP = values(2, 8, 6, 9)


def test_shape() -> None:
    agree("Shape", [MAP])
    agree("Shape", [MAP], start=-3, end=3)
    agree("Size", [MAP])


def test_reshape() -> None:
    agree("Reshape", [MAP, np.array([0, 0, -1])])
    agree("Reshape", [MAP, np.array([-1, 9, 2, 4])])
    agree("Reshape", [values(0, 3), np.array([3, 0])], allowzero=1)


def test_axes_of_one() -> None:
    thin = values(2, 1, 6, 1)
    agree("Squeeze", [thin])
    agree("Squeeze", [thin, np.array([-1])])
    agree("Squeeze", [thin], opset=11, axes=[1])
    agree("Unsqueeze", [MAP, np.array([-1, 0, 2])])
    agree("Unsqueeze", [MAP], opset=11, axes=[0, 5])


def test_other_orders() -> None:
    agree("Transpose", [MAP])
    agree("Transpose", [MAP], perm=[0, 2, 3, 1])
    for axis in (0, 1, 3, -1):
        agree("Flatten", [MAP], axis=axis)
    agree("Identity", [MAP])


def test_copies() -> None:
    agree("Expand", [values(3, 1), np.array([2, 1, 4])])
    agree("Expand", [values(3, 1), np.array([1])])
    agree("Tile", [values(2, 3), np.array([2, 3])])


def test_channels_and_positions() -> None:
    agree("DepthToSpace", [MAP], blocksize=2)
    agree("DepthToSpace", [MAP], blocksize=2, mode="CRD")
    agree("SpaceToDepth", [values(2, 3, 6, 9)], blocksize=3)


def upper_half_with_positions() -> onnx.ModelProto:
    """As exporters write `x[..., : h // 2, :]` and a grid of positions for any size of image."""
    nodes = [
        helper.make_node("Shape", ["image"], ["sizes"]),
        helper.make_node("Gather", ["sizes", "two"], ["h"], axis=0),
        helper.make_node("Div", ["h", "two"], ["half"]),
        helper.make_node("Unsqueeze", ["half", "front"], ["half_1d"]),
        helper.make_node("Slice", ["image", "front", "half_1d", "axis_2"], ["upper"]),
        helper.make_node("Range", ["zero", "half", "one"], ["rows"]),
        helper.make_node("Cast", ["rows"], ["rows_float"], to=1),
        helper.make_node("Reshape", ["rows_float", "column"], ["ramp"]),
        helper.make_node("Slice", ["sizes", "front", "axis_2"], ["leading"]),
        helper.make_node("Concat", ["leading", "half_1d", "last_one"], ["ramp_shape"], axis=0),
        helper.make_node("Expand", ["ramp", "ramp_shape"], ["ramp_map"]),
        helper.make_node("ConstantOfShape", ["ramp_shape"], ["zeros"]),
        helper.make_node("Add", ["ramp_map", "zeros"], ["positions"]),
        helper.make_node("Add", ["upper", "positions"], ["restored"]),
    ]
    constants = {
        "two": np.array(2),
        "zero": np.array(0),
        "one": np.array(1),
        "front": np.array([0]),
        "axis_2": np.array([2]),
        "last_one": np.array([1]),
        "column": np.array([1, 1, -1, 1]),
    }
    return make_model(nodes, constants, output_shape=("n", 3, "half", "w"))


def test_sizes_computed_in_the_graph() -> None:
    model = upper_half_with_positions()
    compare(model, values(1, 3, 11, 7))
    compare(model, values(2, 3, 8, 5))


def test_what_is_computed_from_sizes_follows_the_maps_to_their_device() -> None:
    """torch's meta device has no values and mixes with the CPU as little as an accelerator does."""
    (restored,) = GraphModule(upper_half_with_positions())(torch.empty(1, 3, 11, 7, device="meta"))
    assert restored.device.type == "meta"
    assert restored.shape == (1, 3, 5, 7)
