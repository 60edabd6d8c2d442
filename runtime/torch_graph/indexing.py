"""Pieces of tensors by position: slices, gathers and scatters."""

from __future__ import annotations

import torch
from torch import Tensor

from kdguard.runtime.torch_graph.node import Node, Operator, integers, together


def _slice(
    node: Node,
    x: Tensor,
    starts: Tensor | None = None,
    ends: Tensor | None = None,
    axes: Tensor | None = None,
    steps: Tensor | None = None,
) -> Tensor:
    first, last = node.axes(starts, "starts") or [], node.axes(ends, "ends") or []
    over = node.axes(axes) or list(range(len(first)))
    strides = integers(steps) if steps is not None else [1] * len(first)
    for start, end, axis, step in zip(first, last, over, strides, strict=True):
        # Python's slices clamp and count from the end exactly as ONNX does, but for an end before
        # the first element when going backwards, which ONNX writes as a number below -size.
        size = x.shape[axis]
        stop = None if step < 0 and end < -size else end
        taken = range(size)[start:stop:step]
        if step > 0:
            x = x[(slice(None),) * (axis % x.ndim) + (slice(taken.start, max(taken.stop, taken.start), step),)]
        else:
            x = x.index_select(axis, torch.tensor(list(taken), dtype=torch.int64, device=x.device))
    return x


def _non_negative(indices: Tensor, size: int) -> Tensor:
    return torch.where(indices < 0, indices + size, indices)


def _gather(node: Node, x: Tensor, indices: Tensor) -> Tensor:
    axis = node.get("axis", 0) % x.ndim
    flat = _non_negative(indices.reshape(-1).to(x.device, torch.int64), x.shape[axis])
    return x.index_select(axis, flat).reshape([*x.shape[:axis], *indices.shape, *x.shape[axis + 1 :]])


def _gather_elements(node: Node, x: Tensor, indices: Tensor) -> Tensor:
    axis = node.get("axis", 0)
    x, indices = together(x, indices)
    return torch.gather(x, axis, _non_negative(indices.to(torch.int64), x.shape[axis]))


def _positions(x: Tensor, indices: Tensor) -> tuple[Tensor, ...]:
    """Index tuples [..., depth] as one index tensor per leading axis of x."""
    return tuple(
        _non_negative(part.to(x.device, torch.int64), size)
        for part, size in zip(indices.unbind(-1), x.shape, strict=False)
    )


def _gather_nd(node: Node, x: Tensor, indices: Tensor) -> Tensor:
    if node.get("batch_dims", 0):
        raise node.unsupported("with batch_dims")
    return x[_positions(x, indices)]


def _scatter_nd(node: Node, x: Tensor, indices: Tensor, updates: Tensor) -> Tensor:
    reduction = node.get("reduction", "none")
    if reduction not in ("none", "add"):
        raise node.unsupported(f"with reduction {reduction!r}")
    x, updates = together(x, updates)
    return x.index_put(_positions(x, indices), updates, accumulate=reduction == "add")


def _scatter_elements(node: Node, x: Tensor, indices: Tensor, updates: Tensor) -> Tensor:
    axis, reduction = node.get("axis", 0), node.get("reduction", "none")
    if reduction not in ("none", "add"):
        raise node.unsupported(f"with reduction {reduction!r}")
    x, indices, updates = together(x, indices, updates)
    places = _non_negative(indices.to(torch.int64), x.shape[axis])
    return x.scatter_add(axis, places, updates) if reduction == "add" else x.scatter(axis, places, updates)


def _trilu(node: Node, x: Tensor, k: Tensor | None = None) -> Tensor:
    offset = 0 if k is None else integers(k)[0]
    return torch.triu(x, offset) if node.get("upper", 1) else torch.tril(x, offset)


OPERATORS: dict[str, Operator] = {
    "Slice": _slice,
    "Gather": _gather,
    "GatherElements": _gather_elements,
    "GatherND": _gather_nd,
    "ScatterND": _scatter_nd,
    "ScatterElements": _scatter_elements,
    "Trilu": _trilu,
}
