"""One-node models around the op."""

from __future__ import annotations

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from kdguard.graph_passes.op import DOMAIN, VERSION, SvdPerturbAttributes, op_functions


def op_model(
    attributes: SvdPerturbAttributes,
    *,
    rank: int = 4,
    dtype: int = TensorProto.FLOAT,
    opset: int = 18,
    strength: float | None = None,
) -> onnx.ModelProto:
    """X -> SvdPerturb -> Y, then SvdRestore -> Z; strength left out unless given."""
    shape = ["n", "c", *(f"d{i}" for i in range(rank - 2))]
    driven = [] if strength is None else ["strength"]
    common = {"domain": DOMAIN, **attributes.node_attributes()}
    graph = helper.make_graph(
        [
            helper.make_node("SvdPerturb", ["X", *driven], ["Y", "U", "mean"], **common),
            helper.make_node("SvdRestore", ["Y", "U", "mean", *driven], ["Z"], **common),
        ],
        "op",
        [helper.make_tensor_value_info("X", dtype, shape)],
        [helper.make_tensor_value_info(name, dtype, shape) for name in ("Y", "Z")],
        [] if strength is None else [numpy_helper.from_array(np.array(strength, np.float32), "strength")],
    )
    return helper.make_model(
        graph,
        opset_imports=[helper.make_opsetid("", opset), helper.make_opsetid(DOMAIN, VERSION)],
        functions=op_functions(opset),
        ir_version=10,
    )


def map_with_spectrum(
    rng: np.random.Generator, channels: int, positions: tuple[int, ...], singular_values: np.ndarray, batch: int = 1
) -> np.ndarray:
    """[batch, channels, *positions] float64 whose maps have exactly these singular values."""
    count = int(np.prod(positions))
    maps = []
    for _ in range(batch):
        left, _ = np.linalg.qr(rng.standard_normal((channels, len(singular_values))))
        right, _ = np.linalg.qr(rng.standard_normal((count, len(singular_values))))
        maps.append(((left * singular_values) @ right.T).reshape(channels, *positions))
    return np.stack(maps) * np.sqrt(count)
