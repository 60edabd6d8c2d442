"""Products of matrices."""

from __future__ import annotations

import torch
from torch import Tensor

from kdguard.runtime.torch_graph.node import Node, Operator, together


def _matmul(node: Node, a: Tensor, b: Tensor) -> Tensor:
    return torch.matmul(*together(a, b))


def _gemm(node: Node, a: Tensor, b: Tensor, c: Tensor | None = None) -> Tensor:
    a = a.T if node.get("transA", 0) else a
    b = b.T if node.get("transB", 0) else b
    product = node.get("alpha", 1.0) * (a @ b)
    return product if c is None else product + node.get("beta", 1.0) * c


def _einsum(node: Node, *tensors: Tensor) -> Tensor:
    return torch.einsum(node.attributes["equation"].replace(" ", ""), *together(*tensors))


OPERATORS: dict[str, Operator] = {"MatMul": _matmul, "Gemm": _gemm, "Einsum": _einsum}
