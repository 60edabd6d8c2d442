"""Normalisation layers, as they are at inference."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from kdguard.runtime.torch_graph.node import Node, Operator, along


def _batch_norm(node: Node, x: Tensor, scale: Tensor, bias: Tensor, mean: Tensor, variance: Tensor) -> Tensor:
    """With the statistics in the file; these are not trained."""
    if node.get("training_mode", 0) or node.outputs > 1:
        raise node.unsupported("in training mode", "export the model for inference")
    return functional.batch_norm(x, mean, variance, scale, bias, False, 0.0, node.get("epsilon", 1e-5))


def _instance_norm(node: Node, x: Tensor, scale: Tensor, bias: Tensor) -> Tensor:
    # torch.nn.functional's refuses maps of a single position, which ONNX allows.
    return torch.instance_norm(x, scale, bias, None, None, True, 0.0, node.get("epsilon", 1e-5), False)


def _layer_norm(node: Node, x: Tensor, scale: Tensor, bias: Tensor | None = None) -> Tensor:
    if node.outputs > 1:
        raise node.unsupported("hands out its statistics")
    shape = x.shape[node.get("axis", -1) :]
    epsilon = node.get("epsilon", 1e-5)
    if scale.shape == shape and (bias is None or bias.shape == shape):
        return functional.layer_norm(x, list(shape), scale, bias, epsilon)
    scaled = functional.layer_norm(x, list(shape), None, None, epsilon) * scale  # these may be broadcast
    return scaled if bias is None else scaled + bias


def _rms_norm(node: Node, x: Tensor, scale: Tensor) -> Tensor:
    over = list(range(node.get("axis", -1) % x.ndim, x.ndim))
    return x * torch.rsqrt(x.square().mean(over, keepdim=True) + node.get("epsilon", 1e-5)) * scale


def _group_norm(node: Node, x: Tensor, scale: Tensor, bias: Tensor) -> Tensor:
    """Scale and bias are per group in opset 18, per channel from 21 on."""
    groups, channels = node.attributes["num_groups"], x.shape[1]
    if node.opset < 21:
        scale, bias = (values.repeat_interleave(channels // groups) for values in (scale, bias))
    flat = x.reshape(x.shape[0], groups, -1)
    mean = flat.mean(-1, keepdim=True)
    variance = flat.var(-1, unbiased=False, keepdim=True)
    normal = ((flat - mean) * torch.rsqrt(variance + node.get("epsilon", 1e-5))).reshape(x.shape)
    return normal * along(scale, 1, x.ndim) + along(bias, 1, x.ndim)


def _lp_norm(node: Node, x: Tensor) -> Tensor:
    axis, order = node.get("axis", -1), node.get("p", 2)
    norm = torch.linalg.vector_norm(x, order, axis, keepdim=True)
    return torch.where(norm == 0, torch.zeros_like(x), x / torch.where(norm == 0, torch.ones_like(norm), norm))


OPERATORS: dict[str, Operator] = {
    "BatchNormalization": _batch_norm,
    "InstanceNormalization": _instance_norm,
    "LayerNormalization": _layer_norm,
    "RMSNormalization": _rms_norm,
    "GroupNormalization": _group_norm,
    "LpNormalization": _lp_norm,
}
