"""Tensors joined, split and padded along their axes."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional

from kdguard.runtime.torch_graph.node import Node, Operator
from kdguard.runtime.torch_graph.windows import interleaved


def _concat(node: Node, *tensors: Tensor) -> Tensor:
    device = next((tensor.device for tensor in tensors if tensor.device.type != "cpu"), tensors[0].device)
    return torch.cat([tensor.to(device) for tensor in tensors], node.get("axis", 1))


def _split(node: Node, x: Tensor, sizes: Tensor | None = None) -> tuple[Tensor, ...]:
    """Into stated sizes, or into as many pieces as there are outputs, the last one smaller where they do not fit."""
    axis = node.get("axis", 0)
    stated = node.axes(sizes, "split")
    if stated is None:
        piece = -(-x.shape[axis] // node.outputs)
        rest = x.shape[axis] - piece * (node.outputs - 1)
        stated = [piece] * (node.outputs - 1) + [rest]
    return torch.split(x, stated, axis)


def _reflected(places: Tensor, size: int) -> Tensor:
    period = max(2 * (size - 1), 1)
    folded = places.remainder(period)
    return torch.minimum(folded, period - folded) if size > 1 else torch.zeros_like(places)


_SOURCES: dict[str, Callable[[Tensor, int], Tensor]] = {
    "reflect": _reflected,
    "edge": lambda places, size: places.clamp(0, size - 1),
    "wrap": lambda places, size: places.remainder(size),
}
"""From which position of an axis of this size a mode takes what lies at a position, possibly outside."""


def _pad(
    node: Node, x: Tensor, pads: Tensor | None = None, fill: Tensor | None = None, axes: Tensor | None = None
) -> Tensor:
    """Negative pads cut off."""
    mode = node.get("mode", "constant")
    amounts = node.axes(pads, "pads") or []
    half = len(amounts) // 2
    over = [axis % x.ndim for axis in (node.axes(axes) or range(half))]
    before, after = [0] * x.ndim, [0] * x.ndim
    for axis, front, back in zip(over, amounts[:half], amounts[half:], strict=True):
        before[axis], after[axis] = front, back
    if mode == "constant":
        value = node.get("value", 0.0) if fill is None else fill.item()
        return functional.pad(x, interleaved((before, after)), value=value)
    if mode not in _SOURCES:
        raise node.unsupported(f"with mode {mode!r}")
    for axis, (front, back) in enumerate(zip(before, after, strict=True)):
        if front or back:
            places = torch.arange(-front, x.shape[axis] + back, device=x.device)
            x = x.index_select(axis, _SOURCES[mode](places, x.shape[axis]))
    return x


OPERATORS: dict[str, Operator] = {"Concat": _concat, "Split": _split, "Pad": _pad}
