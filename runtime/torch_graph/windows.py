"""Where the windows of convolutions and poolings lie: strides, dilations and pads, one number per spatial axis."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from kdguard.runtime.torch_graph.node import Node

Pads = tuple[list[int], list[int]]
"""Before and after each spatial axis."""


@dataclass(frozen=True)
class Windows:
    """Attributes that convolutions and poolings share.

    Attributes:
        kernel: its sizes.
    """

    kernel: list[int]
    strides: list[int]
    dilations: list[int]

    @property
    def reach(self) -> list[int]:
        """How many positions a window spans on each axis, gaps included."""
        return [(size - 1) * dilation + 1 for size, dilation in zip(self.kernel, self.dilations, strict=True)]


def windows(node: Node, kernel: Sequence[int]) -> Windows:
    """The node's windows; missing attributes are ones."""
    ones = [1] * len(kernel)
    return Windows(list(kernel), list(node.get("strides", ones)), list(node.get("dilations", ones)))


def stated_pads(node: Node, rank: int) -> Pads:
    """What the attribute `pads` says."""
    pads = list(node.get("pads", [0] * (2 * rank)))
    return pads[:rank], pads[rank:]


def automatic_pads(mode: str, totals: Sequence[int]) -> Pads:
    """Each total shared between both ends; the odd one goes behind with SAME_UPPER, in front with SAME_LOWER."""
    totals = [max(total, 0) for total in totals]
    smaller, larger = [total // 2 for total in totals], [total - total // 2 for total in totals]
    return (larger, smaller) if mode == "SAME_LOWER" else (smaller, larger)


def pads_of(node: Node, sizes: Sequence[int], form: Windows) -> Pads:
    """Pads of a convolution or pooling over maps of these sizes."""
    mode = node.get("auto_pad", "NOTSET")
    if mode == "NOTSET":
        return stated_pads(node, len(sizes))
    if mode == "VALID":
        return [0] * len(sizes), [0] * len(sizes)
    totals = [
        (-(-size // stride) - 1) * stride + reach - size
        for size, stride, reach in zip(sizes, form.strides, form.reach, strict=True)
    ]
    return automatic_pads(mode, totals)


def interleaved(pads: Pads) -> list[int]:
    """As `torch.nn.functional.pad` wants them: last axis first, before and after in turn."""
    return [amount for pair in reversed(list(zip(*pads, strict=True))) for amount in pair]
