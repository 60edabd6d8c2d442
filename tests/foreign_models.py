"""Models as other people export them: fixed shapes, further inputs, other value ranges."""

from __future__ import annotations

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from tests.conftest import make_conv_net, make_model


def with_input_shape(model: onnx.ModelProto, *shape: int | str) -> onnx.ModelProto:
    """The model insisting on this input shape; its output's is left open."""
    image = model.graph.input[0]
    image.CopyFrom(helper.make_tensor_value_info(image.name, image.type.tensor_type.elem_type, shape))
    output = model.graph.output[0].type.tensor_type
    for dimension in output.shape.dim:
        dimension.Clear()
    del model.graph.value_info[:]
    return model


def with_noise_level(model: onnx.ModelProto, shape: list[int | str], kind: int = TensorProto.FLOAT) -> onnx.ModelProto:
    """The model's output multiplied by a further input `level` without a default."""
    model.graph.input.append(helper.make_tensor_value_info("level", kind, shape))
    model.graph.node[-1].output[0] = "sum"
    model.graph.node.append(helper.make_node("Cast", ["level"], ["level_float"], to=TensorProto.FLOAT))
    model.graph.node.append(helper.make_node("Mul", ["sum", "level_float"], ["restored"]))
    return model


def in_value_range(low: float, high: float) -> onnx.ModelProto:
    """A network that smooths a little, and clips to its range: it restores in that range only."""
    kernel = np.zeros((3, 3, 3, 3), np.float32)
    for channel in range(3):
        kernel[channel, channel] = np.outer([1, 6, 1], [1, 6, 1]) / 64
    middle = np.float32((low + high) / 2)
    nodes = [
        helper.make_node("Sub", ["image", "middle"], ["shifted"], "sub_middle"),
        helper.make_node("Conv", ["shifted", "kernel"], ["smooth"], "conv_smooth", pads=[1, 1, 1, 1]),
        helper.make_node("Add", ["smooth", "middle"], ["back"], "add_middle"),
        helper.make_node("Clip", ["back", "low", "high"], ["clipped"], "clip"),
        helper.make_node("Identity", ["clipped"], ["restored"], "out"),
    ]
    weights = {
        "kernel": kernel,
        "middle": np.array(middle),
        "low": np.array(low, np.float32),
        "high": np.array(high, np.float32),
    }
    return make_model(nodes, weights)


def nhwc_net() -> onnx.ModelProto:
    """`make_conv_net` between two transpositions."""
    model = make_conv_net()
    graph = model.graph
    for node in graph.node:
        for index, name in enumerate(node.input):
            if name == "image":
                node.input[index] = "image_nchw"
    graph.node[-1].output[0] = "restored_nchw"
    graph.node.insert(0, helper.make_node("Transpose", ["image"], ["image_nchw"], "to_nchw", perm=[0, 3, 1, 2]))
    graph.node.append(helper.make_node("Transpose", ["restored_nchw"], ["restored"], "to_nhwc", perm=[0, 2, 3, 1]))
    for value in (graph.input[0], graph.output[0]):
        value.CopyFrom(helper.make_tensor_value_info(value.name, TensorProto.FLOAT, ["n", "h", "w", 3]))
    return model


def with_constant(model: onnx.ModelProto, name: str, value: np.ndarray) -> onnx.ModelProto:
    model.graph.initializer.append(numpy_helper.from_array(value, name))
    return model
