"""What an operator's torch form is given beside its input tensors."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from kdguard.export.errors import UserError

ADVICE = "train the model in the framework that it comes from, or export it without this operator"


@dataclass(frozen=True)
class Node:
    """A node without its tensors.

    Attributes:
        operator: its type, after the domain where that is not ONNX's own.
        name: the node's own, or that of its first output where it has none.
        attributes: as Python values; strings decoded.
        outputs: how many the node has.
        opset: version of the standard domain; the meaning of some operators depends on it.
    """

    operator: str
    name: str
    attributes: Mapping[str, Any]
    outputs: int
    opset: int

    def get(self, attribute: str, default: Any) -> Any:
        """An attribute, or its default."""
        return self.attributes.get(attribute, default)

    def axes(self, given: Tensor | None = None, name: str = "axes") -> list[int] | None:
        """Integers that older opsets keep in an attribute and newer ones in an input; None where there are none."""
        if given is not None:
            return integers(given)
        found = self.attributes.get(name)
        return None if found is None else list(found)

    def unsupported(self, why: str = "", advice: str = ADVICE) -> UserError:
        """The error that says that this node cannot be run in torch."""
        reason = f" {why}" if why else ""
        return UserError(f"cannot be trained in torch: operator {self.operator} (node {self.name!r}){reason}; {advice}")


Operator = Callable[..., Tensor | tuple[Tensor, ...]]
"""Takes the node and its input tensors, None for an input that is left out; returns its outputs."""


def integers(tensor: Tensor) -> list[int]:
    """The elements of an integer tensor of any shape; sizes and axes stay on the CPU, so reading them is cheap."""
    return [int(value) for value in tensor.reshape(-1).tolist()]


def together(*tensors: Tensor) -> tuple[Tensor, ...]:
    """The tensors on one device.

    What is computed from shapes lives on the CPU; it follows the maps where it meets them. Tensors
    without an axis stay: torch takes them from anywhere.
    """
    device = next((tensor.device for tensor in tensors if tensor.device.type != "cpu"), None)
    if device is None:
        return tensors
    return tuple(tensor.to(device) if tensor.ndim else tensor for tensor in tensors)


def along(vector: Tensor, axis: int, rank: int) -> Tensor:
    """A vector [n] as a tensor of this rank that varies along one axis."""
    return vector.reshape([-1 if index == axis % rank else 1 for index in range(rank)])


def float_type(tensor: Tensor) -> Tensor:
    """float16 and bfloat16 as float32: half precision is computed, and trained, in single."""
    return tensor.to(torch.float32) if tensor.dtype in (torch.float16, torch.bfloat16) else tensor
