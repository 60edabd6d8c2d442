"""Graphs that surgery and runtimes stumble over: each a small restoration model, really run."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import onnx
from onnx import TensorProto, helper

from tests.conftest import conv_weights, make_conv_net, make_model
from tests.foreign_models import nhwc_net, with_input_shape, with_noise_level
from tests.graph_passes.rich_model import make_rich_model

WIDTH = 8
PADS = {"pads": [1, 1, 1, 1]}


def around(middle: Sequence[onnx.NodeProto], weights: dict[str, np.ndarray], opset: int = 18) -> onnx.ModelProto:
    """image -> Conv a -> Relu b -> the given nodes from b to m -> Conv tail, added to the image."""
    nodes = [
        helper.make_node("Conv", ["image", "wa"], ["a"], "conv_a", **PADS),
        helper.make_node("Relu", ["a"], ["b"], "relu_b"),
        *middle,
        helper.make_node("Conv", ["m", "wt"], ["tail"], "conv_tail", **PADS),
        helper.make_node("Add", ["image", "tail"], ["restored"], "add_out"),
    ]
    own = {"wa": conv_weights(0, WIDTH, 3), "wt": conv_weights(2, 3, WIDTH) * np.float32(0.02)}
    return make_model(nodes, own | weights, opset=opset)


def prelu() -> onnx.ModelProto:
    slope = np.linspace(-0.2, 0.5, WIDTH, dtype=np.float32).reshape(WIDTH, 1, 1)
    return around(
        [
            helper.make_node("Conv", ["b", "wc"], ["c"], "conv_c", **PADS),
            helper.make_node("PRelu", ["c", "slope"], ["m"], "prelu"),
        ],
        {"wc": conv_weights(1, WIDTH, WIDTH), "slope": slope},
    )


def instance_norm() -> onnx.ModelProto:
    norm = helper.make_node("InstanceNormalization", ["b", "gamma", "beta"], ["m"], "norm")
    return around([norm], {"gamma": np.ones(WIDTH, np.float32), "beta": np.zeros(WIDTH, np.float32)})


def fourier(opset: int) -> onnx.ModelProto:
    """Columns to frequencies, each halved, and back; the axis became an input in opset 20."""
    axis: dict[str, object] = {} if opset >= 20 else {"axis": 2}
    tail = ["", "axis"] if opset >= 20 else []
    nodes = [
        helper.make_node("Unsqueeze", ["b", "last"], ["real"], "to_complex"),
        helper.make_node("DFT", ["real", *tail], ["spectrum"], "dft", **axis),
        helper.make_node("Mul", ["spectrum", "half"], ["filtered"], "filter"),
        helper.make_node("DFT", ["filtered", *tail], ["complex"], "idft", inverse=1, **axis),
        helper.make_node("Slice", ["complex", "zero", "one", "last"], ["sliced"], "real_part"),
        helper.make_node("Squeeze", ["sliced", "last"], ["m"], "from_complex"),
    ]
    weights = {
        "last": np.array([4]),
        "zero": np.array([0]),
        "one": np.array([1]),
        "half": np.array(0.5, np.float32),
        "axis": np.array(2),
    }
    return around(nodes, weights, opset)


def attention() -> onnx.ModelProto:
    """Self-attention over channels, on tokens that Reshape makes of the map (as Restormer does)."""
    nodes = [
        helper.make_node("Reshape", ["b", "flat"], ["tokens"], "to_tokens"),
        helper.make_node("Transpose", ["tokens"], ["tokens_t"], "transpose", perm=[0, 2, 1]),
        helper.make_node("MatMul", ["tokens", "tokens_t"], ["scores"], "scores"),
        helper.make_node("Mul", ["scores", "temperature"], ["scaled"], "scale"),
        helper.make_node("Softmax", ["scaled"], ["weights"], "softmax", axis=-1),
        helper.make_node("MatMul", ["weights", "tokens"], ["mixed"], "mix"),
        helper.make_node("Shape", ["b"], ["sizes"], "sizes"),
        helper.make_node("Reshape", ["mixed", "sizes"], ["attended"], "to_map"),
        helper.make_node("Add", ["attended", "b"], ["m"], "add_m"),
    ]
    return around(nodes, {"flat": np.array([0, 0, -1]), "temperature": np.array(1e-3, np.float32)})


def many_readers() -> onnx.ModelProto:
    """The map b goes to Split, Concat, Pad and Reshape at once."""
    nodes = [
        helper.make_node("Split", ["b"], ["s1", "s2"], "split", axis=1, num_outputs=2),
        helper.make_node("Concat", ["s2", "s1", "b"], ["joined"], "concat", axis=1),
        helper.make_node("Conv", ["joined", "w_joined"], ["from_joined"], "conv_joined", **PADS),
        helper.make_node("Pad", ["b", "pads"], ["padded"], "pad", mode="reflect"),
        helper.make_node("Conv", ["padded", "w_padded"], ["from_padded"], "conv_padded"),
        helper.make_node("Reshape", ["b", "flat"], ["flattened"], "flatten"),
        helper.make_node("ReduceMean", ["flattened", "last"], ["mean"], "mean", keepdims=1),
        helper.make_node("Unsqueeze", ["mean", "last"], ["mean_map"], "mean_map"),
        helper.make_node("Sum", ["from_joined", "from_padded", "mean_map", "b"], ["m"], "sum_m"),
    ]
    weights = {
        "w_joined": conv_weights(4, WIDTH, 2 * WIDTH),
        "w_padded": conv_weights(5, WIDTH, WIDTH),
        "pads": np.array([0, 0, 1, 1, 0, 0, 1, 1]),
        "flat": np.array([0, 0, -1]),
        "last": np.array([-1]),
    }
    return around(nodes, weights)


def shared_weight() -> onnx.ModelProto:
    nodes = [
        helper.make_node("Conv", ["b", "wc"], ["c"], "conv_c", **PADS),
        helper.make_node("Conv", ["c", "wc"], ["d"], "conv_d", **PADS),
        helper.make_node("Conv", ["d", "wc"], ["m"], "conv_m", **PADS),
    ]
    return around(nodes, {"wc": conv_weights(1, WIDTH, WIDTH)})


def contrib_operator() -> onnx.ModelProto:
    """An operator of onnxruntime's own, which onnx does not know: shapes end there, and begin again where declared."""
    model = around([helper.make_node("Gelu", ["b"], ["m"], "gelu", domain="com.microsoft")], {})
    model.opset_import.append(helper.make_opsetid("com.microsoft", 1))
    return model


def mystery_operator() -> onnx.ModelProto:
    """An operator that nobody has."""
    model = around([helper.make_node("Mystery", ["b"], ["m"], "mystery", domain="acme.vision")], {})
    model.opset_import.append(helper.make_opsetid("acme.vision", 1))
    return model


Case = tuple[Callable[[], onnx.ModelProto], list[str]]
"""A model, and the layers to harden."""

CASES: dict[str, Case] = {
    "NHWC": (nhwc_net, ["b", "d"]),
    "extra input": (lambda: with_noise_level(make_conv_net(), [1]), ["b", "d"]),
    "noise map": (lambda: with_noise_level(make_conv_net(), ["n", 1, "h", "w"]), ["b", "d"]),
    "fixed size": (lambda: with_input_shape(make_conv_net(), 1, 3, 32, 40), ["b", "d"]),
    "batch of two": (lambda: with_input_shape(make_conv_net(), 2, 3, 32, 32), ["b", "d"]),
    "dynamic size": (make_conv_net, ["b", "d"]),
    "fp16": (lambda: make_conv_net(dtype=TensorProto.FLOAT16), ["b"]),
    "PRelu": (prelu, ["c", "m"]),
    "InstanceNormalization": (instance_norm, ["b", "m"]),
    "DFT 17": (lambda: fourier(17), ["b", "spectrum"]),
    "DFT 20": (lambda: fourier(20), ["b", "m"]),
    "attention": (attention, ["b", "tokens", "attended"]),
    "If, Loop and a local function": (make_rich_model, ["b", "d", "chosen", "looped", "e"]),
    "many readers": (many_readers, ["b", "padded"]),
    "shared weight": (shared_weight, ["c", "d"]),
    "contrib operator": (contrib_operator, ["b"]),
}
