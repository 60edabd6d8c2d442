"""Shapes as values, and tensors brought into other shapes.

Shapes are int64 tensors on the CPU wherever the maps are, so that computing with them waits for no
accelerator.
"""

from __future__ import annotations

import torch
from torch import Tensor

from kdguard.runtime.torch_graph.node import Node, Operator, integers


def _shape(node: Node, x: Tensor) -> Tensor:
    return torch.tensor(list(x.shape)[node.get("start", 0) : node.get("end", None)], dtype=torch.int64)


def _size(node: Node, x: Tensor) -> Tensor:
    return torch.tensor(x.numel())


def _identity(node: Node, x: Tensor) -> Tensor:
    return x


def _reshape(node: Node, x: Tensor, shape: Tensor | None = None) -> Tensor:
    """0 keeps a size unless `allowzero`, -1 takes what is left."""
    wanted = node.axes(shape, "shape") or []
    if not node.get("allowzero", 0):
        wanted = [x.shape[axis] if size == 0 else size for axis, size in enumerate(wanted)]
    return x.reshape(wanted)


def _flatten(node: Node, x: Tensor) -> Tensor:
    """To a matrix: the axes before the given one, and the rest."""
    axis = node.get("axis", 1)
    rows = x.shape[: axis if axis >= 0 else x.ndim + axis].numel()
    return x.reshape(rows, x.numel() // rows if rows else 0)


def _squeeze(node: Node, x: Tensor, axes: Tensor | None = None) -> Tensor:
    over = node.axes(axes)
    return x.squeeze() if over is None else x.squeeze(over)


def _unsqueeze(node: Node, x: Tensor, axes: Tensor | None = None) -> Tensor:
    new = node.axes(axes) or []
    rank = x.ndim + len(new)
    for axis in sorted(axis % rank for axis in new):
        x = x.unsqueeze(axis)
    return x


def _transpose(node: Node, x: Tensor) -> Tensor:
    return x.permute(node.get("perm", list(reversed(range(x.ndim)))))


def _expand(node: Node, x: Tensor, shape: Tensor) -> Tensor:
    """A size of 1 in the shape keeps the tensor's own."""
    wanted = integers(shape)
    rank = max(x.ndim, len(wanted))
    own, wanted = ([1] * (rank - len(sizes)) + sizes for sizes in (list(x.shape), wanted))
    return x.expand([size if target == 1 else target for size, target in zip(own, wanted, strict=True)])


def _tile(node: Node, x: Tensor, repeats: Tensor) -> Tensor:
    return x.repeat(integers(repeats))


def _depth_to_space(node: Node, x: Tensor) -> Tensor:
    n, c, h, w = x.shape
    b = node.attributes["blocksize"]
    if node.get("mode", "DCR") == "CRD":
        return x.reshape(n, c // (b * b), b, b, h, w).permute(0, 1, 4, 2, 5, 3).reshape(n, -1, h * b, w * b)
    return x.reshape(n, b, b, c // (b * b), h, w).permute(0, 3, 4, 1, 5, 2).reshape(n, -1, h * b, w * b)


def _space_to_depth(node: Node, x: Tensor) -> Tensor:
    n, c, h, w = x.shape
    b = node.attributes["blocksize"]
    return x.reshape(n, c, h // b, b, w // b, b).permute(0, 3, 5, 1, 2, 4).reshape(n, c * b * b, h // b, w // b)


OPERATORS: dict[str, Operator] = {
    "Shape": _shape,
    "Size": _size,
    "Identity": _identity,
    "Reshape": _reshape,
    "Flatten": _flatten,
    "Squeeze": _squeeze,
    "Unsqueeze": _unsqueeze,
    "Transpose": _transpose,
    "Expand": _expand,
    "Tile": _tile,
    "DepthToSpace": _depth_to_space,
    "SpaceToDepth": _space_to_depth,
}
