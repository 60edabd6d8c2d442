"""Pooling over windows and over whole maps."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional

from kdguard.runtime.torch_graph.node import Node, Operator
from kdguard.runtime.torch_graph.windows import Pads, Windows, interleaved, pads_of, windows

_MAX: dict[int, Callable[..., Tensor]] = {1: functional.max_pool1d, 2: functional.max_pool2d, 3: functional.max_pool3d}
_AVERAGE: dict[int, Callable[..., Tensor]] = {
    1: functional.avg_pool1d,
    2: functional.avg_pool2d,
    3: functional.avg_pool3d,
}


def _ceiling(node: Node, x: Tensor, form: Windows, pads: Pads) -> list[int]:
    """How far the last windows reach beyond the padded map, with `ceil_mode`; windows that start there are none."""
    if not node.get("ceil_mode", 0) or node.get("auto_pad", "NOTSET") != "NOTSET":
        return [0] * len(form.kernel)
    beyond = []
    for size, before, after, stride, reach in zip(x.shape[2:], *pads, form.strides, form.reach, strict=True):
        count = -(-(size + before + after - reach) // stride) + 1
        if (count - 1) * stride >= size + before:
            count -= 1
        beyond.append(max((count - 1) * stride + reach - size - before - after, 0))
    return beyond


def _checked(node: Node, x: Tensor) -> tuple[Windows, Pads, list[int]]:
    form = windows(node, node.get("kernel_shape", []))
    if len(form.kernel) not in _MAX:
        raise node.unsupported(f"in {len(form.kernel)} dimensions")
    if node.outputs > 1:
        raise node.unsupported("hands out the places of the maxima")
    stated = pads_of(node, x.shape[2:], form)
    pads = _room_for_one(x, form, stated)
    if pads != stated and node.get("count_include_pad", 0):
        raise node.unsupported("with pads that count and a window larger than the map, which depends on the opset")
    return form, pads, _ceiling(node, x, form, pads)


def _room_for_one(x: Tensor, form: Windows, pads: Pads) -> Pads:
    """Pads with which a window that is larger than the map fits once, as onnxruntime runs it.

    Its count of windows, (size - window) / stride + 1, is rounded towards 0, so that a lack of less than one stride
    leaves one window. Models exported for one size rely on it on smaller images.
    """
    before, after = pads
    lacks = [r - s - b - a for r, s, b, a in zip(form.reach, x.shape[2:], before, after, strict=True)]
    return before, [
        a + lack if 0 < lack < stride else a for a, lack, stride in zip(after, lacks, form.strides, strict=True)
    ]


def _max_pool(node: Node, x: Tensor) -> Tensor:
    form, pads, beyond = _checked(node, x)
    ends = (pads[0], [after + more for after, more in zip(pads[1], beyond, strict=True)])
    if any(interleaved(ends)):
        x = functional.pad(x, interleaved(ends), value=float("-inf"))
    return _MAX[len(form.kernel)](x, form.kernel, form.strides, 0, form.dilations)


def _average_pool(node: Node, x: Tensor) -> Tensor:
    form, pads, beyond = _checked(node, x)
    if any(dilation != 1 for dilation in form.dilations):
        raise node.unsupported("with dilations")
    pool = _AVERAGE[len(form.kernel)]
    stated, further = interleaved(pads), interleaved(([0] * len(beyond), beyond))
    if not any(stated) and not any(further):
        return pool(x, form.kernel, form.strides)
    # The mean over what counts: pads do if the node says so, what lies beyond them never does.
    counted = functional.pad(x.new_ones((1, 1, *x.shape[2:])), stated, value=float(node.get("count_include_pad", 0)))
    share = pool(functional.pad(counted, further), form.kernel, form.strides)
    return pool(functional.pad(functional.pad(x, stated), further), form.kernel, form.strides) / share


def _global_average(node: Node, x: Tensor) -> Tensor:
    return x.mean(list(range(2, x.ndim)), keepdim=True)


def _global_max(node: Node, x: Tensor) -> Tensor:
    return torch.amax(x, list(range(2, x.ndim)), keepdim=True)


OPERATORS: dict[str, Operator] = {
    "MaxPool": _max_pool,
    "AveragePool": _average_pool,
    "GlobalAveragePool": _global_average,
    "GlobalMaxPool": _global_max,
}
