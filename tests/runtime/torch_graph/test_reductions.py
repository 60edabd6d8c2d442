from __future__ import annotations

import numpy as np
import pytest

from tests.runtime.torch_graph.agreement import agree, values

MAP = np.abs(values(2, 3, 5, 7)) + np.float32(0.1)
NORMS = ["L1", "L2", "LogSum", "LogSumExp", "SumSquare"]


@pytest.mark.parametrize("kind", ["Sum", "Mean", "Max", "Min", "Prod", *NORMS])
def test_reduction(kind: str) -> None:
    operator = f"Reduce{kind}"
    agree(operator, [MAP])
    agree(operator, [MAP, np.array([2, -1])], keepdims=0)
    agree(operator, [MAP], noop_with_empty_axes=1)
    agree(operator, [MAP], opset=11, axes=[1], keepdims=1)


@pytest.mark.parametrize("operator", ["ArgMax", "ArgMin"])
def test_extreme_places(operator: str) -> None:
    agree(operator, [MAP], axis=2)
    agree(operator, [MAP], axis=-1, keepdims=0)


@pytest.mark.parametrize("reverse", [0, 1])
@pytest.mark.parametrize("exclusive", [0, 1])
def test_cumulative_sum(reverse: int, exclusive: int) -> None:
    agree("CumSum", [MAP, np.array(2)], reverse=reverse, exclusive=exclusive)


def test_top_k() -> None:
    agree("TopK", [MAP, np.array([3])], outputs=2)
    agree("TopK", [MAP, np.array([2])], outputs=2, axis=2, largest=0)
