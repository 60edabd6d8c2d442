"""Which constants of a graph are weights, and putting trained ones back into the file.

A weight is a floating-point constant that reaches, possibly transposed or reshaped, a place where layers
keep theirs. A factor or summand of elementwise arithmetic is one if it has an axis: exporters write the
numbers of a formula (the 0.5 of a GELU) without one. Running statistics of batch normalisation are none.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

import numpy as np
import onnx
from onnx import TensorProto, numpy_helper
from torch import Tensor

from kdguard.export.errors import UserError
from kdguard.runtime.torch_graph.constants import constant_of, tensor_of
from kdguard.runtime.torch_graph.prepare import operator_name

if TYPE_CHECKING:
    from kdguard.runtime.torch_graph.module import GraphModule

_LAYERS: dict[str, tuple[int, ...]] = {
    "Conv": (1, 2),
    "ConvTranspose": (1, 2),
    "MatMul": (0, 1),
    "Gemm": (0, 1, 2),
    "Einsum": (0, 1, 2),
    "PRelu": (1,),
    "BatchNormalization": (1, 2),
    "InstanceNormalization": (1, 2),
    "LayerNormalization": (1, 2),
    "RMSNormalization": (1,),
    "GroupNormalization": (1, 2),
}
"""The inputs at which layers take their weights."""

_ARITHMETIC = ("Add", "Sub", "Mul", "Div", "Sum")
_CARRIERS = (
    *("Identity", "Cast", "CastLike", "Transpose", "Reshape", "Flatten", "Squeeze", "Unsqueeze", "Expand", "Tile"),
    *("Slice", "Split", "Gather", "Pad", "Neg", "Abs", "Exp", "Sqrt", "Reciprocal", "Sigmoid", "Tanh", "Softplus"),
    *("Softmax", "ReduceL2", "DepthToSpace", "SpaceToDepth"),
)
"""What comes out of these is what went in first, in another form."""


def constants_of(model: onnx.ModelProto) -> dict[str, Tensor]:
    """Every initializer and every Constant node of the main graph, by name.

    Raises:
        UserError: one of them is of a type without a torch counterpart.
    """
    found = {tensor.name: tensor_of(tensor) for tensor in model.graph.initializer}
    for node in model.graph.node:
        if operator_name(node) == "Constant" and (value := constant_of(node)) is not None:
            found[node.output[0]] = value
    return found


def weight_names(model: onnx.ModelProto, constants: Mapping[str, Tensor]) -> list[str]:
    """Names of the constants that are weights, in the order of the file."""
    layers, arithmetic = _leading_to_weights(model.graph)
    return [
        name
        for name, value in constants.items()
        if value.is_floating_point() and value.numel() and (name in layers or (value.ndim and name in arithmetic))
    ]


def _leading_to_weights(graph: onnx.GraphProto) -> tuple[set[str], set[str]]:
    """Tensors that end up as weights of layers, and as terms of arithmetic."""
    layers: set[str] = set()
    arithmetic: set[str] = set()
    for node in reversed(graph.node):
        operator = operator_name(node)
        for index, name in enumerate(node.input):
            if index in _LAYERS.get(operator, ()):
                layers.add(name)
            if operator in _ARITHMETIC:
                arithmetic.add(name)
            if operator == "Concat" or (operator in _CARRIERS and index == 0):
                for reached in (layers, arithmetic):
                    if reached.intersection(node.output):
                        reached.add(name)
    return layers, arithmetic


def holders(model: onnx.ModelProto) -> Iterator[tuple[str, TensorProto | onnx.AttributeProto]]:
    """Names of the main graph's constants with what holds their values."""
    for tensor in model.graph.initializer:
        yield tensor.name, tensor
    for node in model.graph.node:
        if operator_name(node) == "Constant":
            attribute = node.attribute[0]
            yield node.output[0], attribute.t if attribute.name == "value" else attribute


def write_back(model: onnx.ModelProto, module: GraphModule) -> onnx.ModelProto:
    """A copy of the model with the module's weights; nothing else differs.

    Weights of half precision are rounded to it.

    Args:
        model: the one that the module was made of, or one with the same weights in it.

    Raises:
        UserError: a weight of the module is not in the model, or has another shape there.
    """
    written = onnx.ModelProto()
    written.CopyFrom(model)
    places = dict(holders(written))
    for name, weight in module.named_weights():
        values = weight.detach().cpu().numpy()
        if name not in places:
            raise UserError(f"weight {name!r} is not in the model; write it back into the model that was trained")
        _set_values(places[name], name, values)
    return written


def _set_values(holder: TensorProto | onnx.AttributeProto, name: str, values: np.ndarray) -> None:
    if isinstance(holder, onnx.AttributeProto):
        if holder.name == "value_float":
            holder.f = float(values)
        else:
            holder.floats[:] = values.tolist()
        return
    old = numpy_helper.to_array(holder)
    if old.shape != values.shape:
        raise UserError(
            f"weight {name!r} has shape {list(values.shape)} in the module and {list(old.shape)} in the model; "
            "write it back into the model that was trained"
        )
    for field in ("float_data", "double_data", "int32_data"):  # float16 and bfloat16 may lie in the last one
        holder.ClearField(field)
    holder.raw_data = numpy_helper.from_array(values.astype(old.dtype)).raw_data
