"""Convolution and transposed convolution in one to three spatial dimensions."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor
from torch.nn import functional

from kdguard.runtime.torch_graph.node import Node, Operator, along
from kdguard.runtime.torch_graph.windows import (
    Pads,
    Windows,
    automatic_pads,
    interleaved,
    pads_of,
    stated_pads,
    windows,
)

_FORWARD: dict[int, Callable[..., Tensor]] = {1: functional.conv1d, 2: functional.conv2d, 3: functional.conv3d}
_TRANSPOSED: dict[int, Callable[..., Tensor]] = {
    1: functional.conv_transpose1d,
    2: functional.conv_transpose2d,
    3: functional.conv_transpose3d,
}


def _conv(node: Node, x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """[N, C, spatial...] with a weight [M, C / group, kernel...]."""
    form = windows(node, weight.shape[2:])
    if len(form.kernel) not in _FORWARD:
        raise node.unsupported(f"in {len(form.kernel)} dimensions")
    pads = pads_of(node, x.shape[2:], form)
    padding = pads[0]
    if pads[0] != pads[1] or min(padding) < 0:
        x, padding = functional.pad(x, interleaved(pads)), [0] * len(form.kernel)
    convolve = _FORWARD[len(form.kernel)]
    return convolve(x, weight, bias, form.strides, padding, form.dilations, node.get("group", 1))


def _conv_transpose(node: Node, x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """[N, C, spatial...] with a weight [C, M / group, kernel...]."""
    form = windows(node, weight.shape[2:])
    rank = len(form.kernel)
    if rank not in _TRANSPOSED:
        raise node.unsupported(f"in {rank} dimensions")
    extra = list(node.get("output_padding", [0] * rank))
    before, after = _transposed_pads(node, list(x.shape[2:]), form, extra)
    convolve, group = _TRANSPOSED[rank], node.get("group", 1)
    allowed = all(e < max(s, d) for e, s, d in zip(extra, form.strides, form.dilations, strict=True))
    if before == after and allowed and min(before) >= 0:
        return convolve(x, weight, bias, form.strides, before, extra, group, form.dilations)
    # torch pads both ends alike: compute all of it, and cut off or append what the node asks for.
    whole = convolve(x, weight, None, form.strides, 0, 0, group, form.dilations)
    change: Pads = ([-amount for amount in before], [e - amount for e, amount in zip(extra, after, strict=True)])
    cut = functional.pad(whole, interleaved(change))
    return cut if bias is None else cut + along(bias, 1, cut.ndim)


def _transposed_pads(node: Node, sizes: list[int], form: Windows, extra: list[int]) -> Pads:
    """What is cut off at both ends; with a stated output shape or automatic pads, whatever leaves that shape."""
    mode = node.get("auto_pad", "NOTSET")
    shape = node.get("output_shape", None)
    if mode == "VALID" and shape is None:
        return [0] * len(sizes), [0] * len(sizes)
    if mode == "NOTSET" and shape is None:
        return stated_pads(node, len(sizes))
    wanted = [size * stride for size, stride in zip(sizes, form.strides, strict=True)]
    if shape is not None:
        wanted = list(shape)[-len(sizes) :]
    totals = [
        stride * (size - 1) + more + reach - target
        for size, stride, more, reach, target in zip(sizes, form.strides, extra, form.reach, wanted, strict=True)
    ]
    return automatic_pads("SAME_UPPER" if mode == "SAME_UPPER" else "SAME_LOWER", totals)


OPERATORS: dict[str, Operator] = {"Conv": _conv, "ConvTranspose": _conv_transpose}
