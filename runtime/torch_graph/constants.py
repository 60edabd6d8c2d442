"""Constant tensors, tensors made of shapes, and conversions of type."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import torch
from onnx import TensorProto, numpy_helper
from torch import Tensor

from kdguard.export.errors import UserError
from kdguard.runtime.torch_graph.node import Node, Operator, float_type, integers

TYPES = {
    TensorProto.FLOAT: torch.float32,
    # Half precision is computed in single: torch trains it badly, and hardly runs it on a CPU.
    TensorProto.FLOAT16: torch.float32,
    TensorProto.BFLOAT16: torch.float32,
    TensorProto.DOUBLE: torch.float64,
    TensorProto.INT8: torch.int8,
    TensorProto.INT16: torch.int16,
    TensorProto.INT32: torch.int32,
    TensorProto.INT64: torch.int64,
    TensorProto.UINT8: torch.uint8,
    TensorProto.BOOL: torch.bool,
}


def tensor_of(proto: TensorProto) -> Tensor:
    """A constant of the file as a torch tensor of its own memory.

    Raises:
        UserError: its type has no counterpart.
    """
    if proto.data_type not in TYPES:
        kind = TensorProto.DataType.Name(proto.data_type)
        raise UserError(f"cannot be trained in torch: tensor {proto.name!r} is of type {kind}; export it as float")
    values = numpy_helper.to_array(proto)
    if proto.data_type == TensorProto.BFLOAT16:
        values = values.astype(np.float32)
    return float_type(torch.from_numpy(np.array(values)))


def constant_of(node: onnx.NodeProto) -> Tensor | None:
    """What a Constant node holds; None where that is no tensor of numbers."""
    attribute = node.attribute[0]
    if attribute.name == "value":
        return tensor_of(attribute.t)
    values: dict[str, Any] = {
        "value_float": lambda: torch.tensor(attribute.f, dtype=torch.float32),
        "value_floats": lambda: torch.tensor(list(attribute.floats), dtype=torch.float32),
        "value_int": lambda: torch.tensor(attribute.i, dtype=torch.int64),
        "value_ints": lambda: torch.tensor(list(attribute.ints), dtype=torch.int64),
    }
    return values[attribute.name]() if attribute.name in values else None


def _constant_of_shape(node: Node, shape: Tensor) -> Tensor:
    value = node.attributes.get("value")
    filling = torch.zeros(1) if value is None else tensor_of(value)
    return torch.full(integers(shape), filling.reshape(-1)[0].item(), dtype=filling.dtype)


def _range(node: Node, start: Tensor, limit: Tensor, delta: Tensor) -> Tensor:
    return torch.arange(start.item(), limit.item(), delta.item(), dtype=start.dtype)


def _eye_like(node: Node, x: Tensor) -> Tensor:
    rows, columns = x.shape
    kind = TYPES[node.get("dtype", TensorProto.FLOAT)]
    shifted = torch.arange(columns) - torch.arange(rows)[:, None]
    return (shifted == node.get("k", 0)).to(kind)


def _cast(node: Node, x: Tensor) -> Tensor:
    wanted = node.attributes["to"]
    if wanted not in TYPES:
        raise node.unsupported(f"to type {TensorProto.DataType.Name(wanted)}")
    return x.to(TYPES[wanted])


def _cast_like(node: Node, x: Tensor, like: Tensor) -> Tensor:
    return x.to(like.dtype)


OPERATORS: dict[str, Operator] = {
    "ConstantOfShape": _constant_of_shape,
    "Range": _range,
    "EyeLike": _eye_like,
    "Cast": _cast,
    "CastLike": _cast_like,
}
