from __future__ import annotations

import pytest

from tests.runtime.torch_graph.agreement import agree, values


@pytest.mark.parametrize(
    "shapes", [((4, 5), (5, 3)), ((2, 3, 4, 5), (5, 3)), ((2, 3, 4, 5), (3, 5, 2)), ((5,), (5, 3)), ((2, 4, 5), (5,))]
)
def test_matmul(shapes: tuple[tuple[int, ...], tuple[int, ...]]) -> None:
    agree("MatMul", [values(*shapes[0]), values(*shapes[1], seed=1)])


def test_gemm() -> None:
    agree("Gemm", [values(4, 5), values(5, 3)])
    agree("Gemm", [values(5, 4), values(3, 5), values(3)], transA=1, transB=1, alpha=0.5, beta=2.0)


def test_einsum() -> None:
    agree("Einsum", [values(2, 3, 4, 5), values(5, 6)], equation="b h w c, c d -> b d h w")
    agree("Einsum", [values(3, 3)], equation="ii")
