"""A restoration model whose weights lie in a data file: few operators, matrices of any size, small images."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from tests.conftest import conv_weights

PADS = {"pads": [1, 1, 1, 1]}
ROWS = 1024


def write_large_teacher(folder: Path, side: int, matrices: int = 2, opset: int = 18) -> Path:
    """image -> Conv a -> Relu b -> its mean through `matrices` side x side products, added to b -> Conv tail.

    The matrices are written row by row: nothing here holds them either.
    """
    rng = np.random.default_rng(0)
    weights = {
        "wa": conv_weights(0, 8, 3),
        "wt": conv_weights(2, 3, 8) * np.float32(0.02),
        "w_in": rng.standard_normal((8, side)).astype(np.float32) / 3,
        "w_out": rng.standard_normal((side, 8)).astype(np.float32) / np.float32(side),
        "axes": np.array([2, 3]),
    }
    initializers = [numpy_helper.from_array(value, name) for name, value in weights.items()]
    mean = (
        helper.make_node("ReduceMean", ["b", "axes"], ["mean"], keepdims=0)
        if opset >= 18
        else helper.make_node("ReduceMean", ["b"], ["mean"], axes=[2, 3], keepdims=0)
    )
    nodes = [
        helper.make_node("Conv", ["image", "wa"], ["a"], "conv_a", **PADS),
        helper.make_node("Relu", ["a"], ["b"], "relu_b"),
        mean,
        helper.make_node("MatMul", ["mean", "w_in"], ["v0"]),
    ]
    with (folder / "weights.bin").open("wb") as stream:
        for index in range(matrices):
            tensor = TensorProto(
                name=f"w{index}",
                data_type=TensorProto.FLOAT,
                dims=[side, side],
                data_location=TensorProto.EXTERNAL,
            )
            place = {"location": "weights.bin", "offset": stream.tell(), "length": 4 * side * side}
            for key, value in place.items():
                tensor.external_data.add(key=key, value=str(value))
            initializers.append(tensor)
            nodes.append(helper.make_node("MatMul", [f"v{index}", tensor.name], [f"v{index + 1}"]))
            for start in range(0, side, ROWS):
                rows = rng.standard_normal((min(ROWS, side - start), side), dtype=np.float32)
                stream.write((rows / np.float32(np.sqrt(side))).tobytes())
    nodes += [
        helper.make_node("MatMul", [f"v{matrices}", "w_out"], ["gate"]),
        helper.make_node("Reshape", ["gate", "gate_shape"], ["gate_map"]),
        helper.make_node("Add", ["b", "gate_map"], ["m"], "add_m"),
        helper.make_node("Conv", ["m", "wt"], ["tail"], "conv_tail", **PADS),
        helper.make_node("Add", ["image", "tail"], ["restored"], "add_out"),
    ]
    initializers.append(numpy_helper.from_array(np.array([-1, 8, 1, 1]), "gate_shape"))
    shape = ["n", 3, "h", "w"]
    graph = helper.make_graph(
        nodes,
        "large",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("restored", TensorProto.FLOAT, shape)],
        initializers,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)
    (folder / "t.onnx").write_bytes(model.SerializeToString())
    return folder / "t.onnx"


def load_whole(path: Path) -> onnx.ModelProto:
    """The model with all its weights in memory, by onnx's own means."""
    return onnx.load_model(str(path))
