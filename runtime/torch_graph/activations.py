"""Activation functions."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from kdguard.runtime.torch_graph.node import Node, Operator, together


def _relu(node: Node, x: Tensor) -> Tensor:
    return torch.relu(x)


def _leaky_relu(node: Node, x: Tensor) -> Tensor:
    return functional.leaky_relu(x, node.get("alpha", 0.01))


def _prelu(node: Node, x: Tensor, slope: Tensor) -> Tensor:
    x, slope = together(x, slope)
    return torch.where(x < 0, x * slope, x)


def _elu(node: Node, x: Tensor) -> Tensor:
    return functional.elu(x, node.get("alpha", 1.0))


def _selu(node: Node, x: Tensor) -> Tensor:
    alpha, gamma = node.get("alpha", 1.67326319217681884765625), node.get("gamma", 1.05070102214813232421875)
    return gamma * functional.elu(x, alpha)


def _celu(node: Node, x: Tensor) -> Tensor:
    return functional.celu(x, node.get("alpha", 1.0))


def _hard_sigmoid(node: Node, x: Tensor) -> Tensor:
    return torch.clamp(node.get("alpha", 0.2) * x + node.get("beta", 0.5), 0, 1)


def _hard_swish(node: Node, x: Tensor) -> Tensor:
    return functional.hardswish(x)


def _gelu(node: Node, x: Tensor) -> Tensor:
    return functional.gelu(x, approximate=node.get("approximate", "none"))


def _softplus(node: Node, x: Tensor) -> Tensor:
    return functional.softplus(x)


def _softsign(node: Node, x: Tensor) -> Tensor:
    return functional.softsign(x)


def _mish(node: Node, x: Tensor) -> Tensor:
    return functional.mish(x)


def _swish(node: Node, x: Tensor) -> Tensor:
    return x * torch.sigmoid(node.get("alpha", 1.0) * x)


def _sigmoid(node: Node, x: Tensor) -> Tensor:
    return torch.sigmoid(x)


def _tanh(node: Node, x: Tensor) -> Tensor:
    return torch.tanh(x)


def _erf(node: Node, x: Tensor) -> Tensor:
    return torch.erf(x)


def _clip(node: Node, x: Tensor, low: Tensor | None = None, high: Tensor | None = None) -> Tensor:
    """Where the bounds cross, the upper one wins, in torch as in ONNX."""
    if node.opset < 11:
        return torch.clamp(x, node.get("min", float("-inf")), node.get("max", float("inf")))
    if low is not None:
        x = torch.maximum(*together(x, low))
    return x if high is None else torch.minimum(*together(x, high))


def _softmax(node: Node, x: Tensor) -> Tensor:
    """Before opset 13 over all axes from the given one on, which was the second by default."""
    if node.opset >= 13:
        return torch.softmax(x, node.get("axis", -1))
    axis = node.get("axis", 1)
    return torch.softmax(x.flatten(axis), -1).reshape(x.shape)


def _log_softmax(node: Node, x: Tensor) -> Tensor:
    if node.opset >= 13:
        return torch.log_softmax(x, node.get("axis", -1))
    axis = node.get("axis", 1)
    return torch.log_softmax(x.flatten(axis), -1).reshape(x.shape)


def _dropout(node: Node, x: Tensor, ratio: Tensor | None = None, training: Tensor | None = None) -> Tensor:
    """Nothing is dropped in inference."""
    if node.outputs > 1 or (training is not None and bool(training)):
        raise node.unsupported("drops elements, or hands out its mask")
    return x


OPERATORS: dict[str, Operator] = {
    "Relu": _relu,
    "LeakyRelu": _leaky_relu,
    "PRelu": _prelu,
    "Elu": _elu,
    "Selu": _selu,
    "Celu": _celu,
    "HardSigmoid": _hard_sigmoid,
    "HardSwish": _hard_swish,
    "Gelu": _gelu,
    "com.microsoft.Gelu": _gelu,
    "Softplus": _softplus,
    "Softsign": _softsign,
    "Mish": _mish,
    "Swish": _swish,
    "Sigmoid": _sigmoid,
    "Tanh": _tanh,
    "Erf": _erf,
    "Clip": _clip,
    "Softmax": _softmax,
    "LogSoftmax": _log_softmax,
    "Dropout": _dropout,
}
