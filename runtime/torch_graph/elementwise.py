"""Arithmetic, comparison and logic, element by element, with broadcasting."""

from __future__ import annotations

from collections.abc import Callable
from functools import reduce

import torch
from torch import Tensor

from kdguard.runtime.torch_graph.node import Node, Operator, together

Binary = Callable[[Tensor, Tensor], Tensor]


def _unary(function: Callable[[Tensor], Tensor]) -> Operator:
    return lambda node, x: function(x)


def _binary(function: Binary) -> Operator:
    return lambda node, a, b: function(*together(a, b))


def _folded(function: Binary) -> Operator:
    """Of any number of tensors, from the left."""
    return lambda node, *tensors: reduce(function, together(*tensors))


def _divide(a: Tensor, b: Tensor) -> Tensor:
    """Integers are cut off towards zero, as in C."""
    return torch.div(a, b) if a.is_floating_point() else torch.div(a, b, rounding_mode="trunc")


def _power(node: Node, base: Tensor, exponent: Tensor) -> Tensor:
    if exponent.ndim == 0 and exponent.device.type == "cpu" and not exponent.requires_grad:
        # A number lets torch square instead of taking logarithms.
        return torch.pow(base, exponent.item()).to(base.dtype)
    return torch.pow(*together(base, exponent)).to(base.dtype)


def _modulo(node: Node, a: Tensor, b: Tensor) -> Tensor:
    a, b = together(a, b)
    return torch.fmod(a, b) if node.get("fmod", 0) else torch.remainder(a, b)


def _mean(node: Node, *tensors: Tensor) -> Tensor:
    return reduce(torch.add, together(*tensors)) / len(tensors)


def _where(node: Node, condition: Tensor, a: Tensor, b: Tensor) -> Tensor:
    condition, a, b = together(condition, a, b)
    return torch.where(condition, a, b)


def _is_infinite(node: Node, x: Tensor) -> Tensor:
    positive = torch.isposinf(x) & bool(node.get("detect_positive", 1))
    return positive | (torch.isneginf(x) & bool(node.get("detect_negative", 1)))


OPERATORS: dict[str, Operator] = {
    "Add": _binary(torch.add),
    "Sub": _binary(torch.sub),
    "Mul": _binary(torch.mul),
    "Div": _binary(_divide),
    "Pow": _power,
    "Mod": _modulo,
    "Sum": _folded(torch.add),
    "Min": _folded(torch.minimum),
    "Max": _folded(torch.maximum),
    "Mean": _mean,
    "Abs": _unary(torch.abs),
    "Neg": _unary(torch.neg),
    "Sign": _unary(torch.sign),
    "Reciprocal": _unary(torch.reciprocal),
    "Sqrt": _unary(torch.sqrt),
    "Exp": _unary(torch.exp),
    "Log": _unary(torch.log),
    "Sin": _unary(torch.sin),
    "Cos": _unary(torch.cos),
    "Tan": _unary(torch.tan),
    "Asin": _unary(torch.asin),
    "Acos": _unary(torch.acos),
    "Atan": _unary(torch.atan),
    "Sinh": _unary(torch.sinh),
    "Cosh": _unary(torch.cosh),
    "Floor": _unary(torch.floor),
    "Ceil": _unary(torch.ceil),
    "Round": _unary(torch.round),
    "Equal": _binary(torch.eq),
    "Less": _binary(torch.lt),
    "LessOrEqual": _binary(torch.le),
    "Greater": _binary(torch.gt),
    "GreaterOrEqual": _binary(torch.ge),
    "And": _binary(torch.logical_and),
    "Or": _binary(torch.logical_or),
    "Xor": _binary(torch.logical_xor),
    "Not": _unary(torch.logical_not),
    "IsNaN": _unary(torch.isnan),
    "IsInf": _is_infinite,
    "Where": _where,
}
