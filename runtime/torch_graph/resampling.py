"""Resize, axis by axis, for every mode and coordinate rule that exporters write; and sampling at given places.

On each axis a result of Resize is a weighted sum of a few input positions: one for nearest, two for linear, four
for cubic, more where antialiasing widens the filter.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import reduce
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from kdguard.runtime.torch_graph.node import Node, Operator, along, integers


class _Axis(NamedTuple):
    """Sizes before and after, and the scale, which may differ from their ratio a little."""

    size: int
    target: int
    scale: float


def _symmetric(o: Tensor, axis: _Axis) -> Tensor:
    offset = axis.size / 2 * (1 - axis.target / (axis.scale * axis.size))
    return offset + (o + 0.5) / axis.scale - 0.5


_COORDINATES: dict[str, Callable[[Tensor, _Axis], Tensor]] = {
    "half_pixel": lambda o, axis: (o + 0.5) / axis.scale - 0.5,
    "pytorch_half_pixel": lambda o, axis: (o + 0.5) / axis.scale - 0.5 if axis.target > 1 else o * 0,
    "align_corners": lambda o, axis: o * (axis.size - 1) / (axis.target - 1) if axis.target > 1 else o * 0,
    "asymmetric": lambda o, axis: o / axis.scale,
    "tf_half_pixel_for_nn": lambda o, axis: (o + 0.5) / axis.scale,
    "half_pixel_symmetric": _symmetric,
}
"""From positions in the result to positions in the input."""

_ROUNDING: dict[str, Callable[[Tensor], Tensor]] = {
    "round_prefer_floor": lambda at: torch.ceil(at - 0.5),
    "round_prefer_ceil": lambda at: torch.floor(at + 0.5),
    "floor": torch.floor,
    "ceil": torch.ceil,
}


def _triangle(distance: Tensor, a: float) -> Tensor:
    return (1 - distance.abs()).clamp(min=0)


def _cubic(distance: Tensor, a: float) -> Tensor:
    """Keys 1981, with the free coefficient a."""
    d = distance.abs()
    near = ((a + 2) * d - (a + 3)) * d * d + 1
    far = ((a * d - 5 * a) * d + 8 * a) * d - 4 * a
    return torch.where(d <= 1, near, torch.where(d < 2, far, torch.zeros_like(d)))


_FILTERS: dict[str, tuple[Callable[[Tensor, float], Tensor], int]] = {"linear": (_triangle, 1), "cubic": (_cubic, 2)}
"""Weight by distance, and the distance where it ends."""


def _weighted_positions(node: Node, at: Tensor, axis: _Axis) -> tuple[Tensor, Tensor]:
    """For every result the positions it takes [K, target], possibly outside, and their weights."""
    weight_at, support = _FILTERS[node.get("mode", "nearest")]
    shrink = min(axis.scale, 1.0) if node.get("antialias", 0) else 1.0
    reach = math.ceil(support / shrink)
    positions = torch.floor(at) + torch.arange(1 - reach, reach + 1)[:, None]
    weights = weight_at((positions - at) * shrink, node.get("cubic_coeff_a", -0.75))
    if node.get("exclude_outside", 0):
        weights = weights * ((positions >= 0) & (positions < axis.size))
    return positions, weights / weights.sum(0)


def _resize_axis(node: Node, x: Tensor, index: int, axis: _Axis) -> Tensor:
    older = node.opset < 11  # one coordinate rule, and no attribute for it
    rule = node.get("coordinate_transformation_mode", "asymmetric" if older else "half_pixel")
    if rule not in _COORDINATES:
        raise node.unsupported(f"with coordinate_transformation_mode {rule!r}")
    # In single precision, as runtimes do it: which neighbour is nearest may hang on the last bit.
    at = _COORDINATES[rule](torch.arange(axis.target, dtype=torch.float32), axis)
    if node.get("mode", "nearest") == "nearest":
        rounding = _ROUNDING[node.get("nearest_mode", "floor" if older else "round_prefer_floor")]
        places = rounding(at).to(torch.int64).clamp(0, axis.size - 1)
        return x.index_select(index, places.to(x.device))
    positions, weights = _weighted_positions(node, at, axis)
    places = positions.to(torch.int64).clamp(0, axis.size - 1).to(x.device)
    weights = weights.to(x.device, x.dtype)
    terms = (x.index_select(index, p) * along(w, index, x.ndim) for p, w in zip(places, weights, strict=True))
    return reduce(torch.add, terms)


def _axes_from_sizes(node: Node, x: Tensor, over: list[int], sizes: list[int]) -> list[_Axis]:
    policy = node.get("keep_aspect_ratio_policy", "stretch")
    scales = [target / x.shape[axis] for axis, target in zip(over, sizes, strict=True)]
    if policy != "stretch":
        common = min(scales) if policy == "not_larger" else max(scales)
        scales = [common] * len(over)
        sizes = [math.floor(common * x.shape[axis] + 0.5) for axis in over]
    return [_Axis(x.shape[axis], target, s) for axis, target, s in zip(over, sizes, scales, strict=True)]


def _resize(
    node: Node, x: Tensor, roi: Tensor | None = None, scales: Tensor | None = None, sizes: Tensor | None = None
) -> Tensor:
    if node.opset < 11:
        roi, scales = None, roi  # the scales were the second input
    over = [axis % x.ndim for axis in (node.axes() or range(x.ndim))]
    if sizes is not None and sizes.numel():
        axes = _axes_from_sizes(node, x, over, integers(sizes))
    else:
        factors = node.get("scales", []) if scales is None else scales.tolist()
        axes = [_Axis(x.shape[i], math.floor(x.shape[i] * f), f) for i, f in zip(over, factors, strict=True)]
    if node.get("mode", "nearest") not in ("nearest", "linear", "cubic"):
        raise node.unsupported(f"with mode {node.get('mode', 'nearest')!r}")
    for index, axis in zip(over, axes, strict=True):
        if axis.size != axis.target or axis.scale != 1:
            x = _resize_axis(node, x, index, axis)
    return x


def _grid_sample(node: Node, x: Tensor, grid: Tensor) -> Tensor:
    """As torch has it; the modes were renamed in opset 20."""
    mode = {"linear": "bilinear", "cubic": "bicubic"}.get(node.get("mode", "bilinear"), node.get("mode", "bilinear"))
    return functional.grid_sample(x, grid, mode, node.get("padding_mode", "zeros"), bool(node.get("align_corners", 0)))


OPERATORS: dict[str, Operator] = {"Resize": _resize, "Upsample": _resize, "GridSample": _grid_sample}
