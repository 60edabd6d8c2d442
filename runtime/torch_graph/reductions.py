"""Sums, means, extremes and norms over axes."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from kdguard.runtime.torch_graph.node import Node, Operator, integers


def _reduction(reduce: Callable[[Tensor, list[int], bool], Tensor]) -> Operator:
    """Over the axes in an attribute or an input; over all where there are none, unless the node wants none then."""

    def run(node: Node, x: Tensor, axes: Tensor | None = None) -> Tensor:
        over = node.axes(axes) or []
        if not over and node.get("noop_with_empty_axes", 0):
            return reduce(x.unsqueeze(-1), [-1], False)  # each element by itself: squared, say
        return reduce(x, over or list(range(x.ndim)), bool(node.get("keepdims", 1)))

    return run


def _product(x: Tensor, axes: list[int], keep: bool) -> Tensor:
    for axis in sorted((axis % x.ndim for axis in axes), reverse=True):
        x = torch.prod(x, axis, keepdim=keep)
    return x


def _extreme_place(find: Callable[..., Tensor]) -> Operator:
    def run(node: Node, x: Tensor) -> Tensor:
        if node.get("select_last_index", 0):
            raise node.unsupported("with select_last_index")
        return find(x, node.get("axis", 0), keepdim=bool(node.get("keepdims", 1)))

    return run


def _cumulative_sum(node: Node, x: Tensor, axis: Tensor) -> Tensor:
    along = integers(axis)[0]
    x = x.flip(along) if node.get("reverse", 0) else x
    total = torch.cumsum(x, along)
    total = total - x if node.get("exclusive", 0) else total
    return total.flip(along) if node.get("reverse", 0) else total


def _top_k(node: Node, x: Tensor, k: Tensor) -> tuple[Tensor, ...]:
    largest, ordered = bool(node.get("largest", 1)), bool(node.get("sorted", 1))
    values, places = torch.topk(x, integers(k)[0], node.get("axis", -1), largest, ordered)
    return values, places


OPERATORS: dict[str, Operator] = {
    "ReduceSum": _reduction(torch.sum),
    "ReduceMean": _reduction(torch.mean),
    "ReduceMax": _reduction(torch.amax),
    "ReduceMin": _reduction(torch.amin),
    "ReduceProd": _reduction(_product),
    "ReduceL1": _reduction(lambda x, axes, keep: torch.sum(x.abs(), axes, keep)),
    "ReduceL2": _reduction(lambda x, axes, keep: torch.linalg.vector_norm(x, 2, axes, keep)),
    "ReduceSumSquare": _reduction(lambda x, axes, keep: torch.sum(x * x, axes, keep)),
    "ReduceLogSum": _reduction(lambda x, axes, keep: torch.log(torch.sum(x, axes, keep))),
    "ReduceLogSumExp": _reduction(torch.logsumexp),
    "ArgMax": _extreme_place(torch.argmax),
    "ArgMin": _extreme_place(torch.argmin),
    "CumSum": _cumulative_sum,
    "TopK": _top_k,
}
