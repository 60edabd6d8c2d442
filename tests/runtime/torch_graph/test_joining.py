from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from tests.runtime.torch_graph.agreement import agree, values

MAP = values(2, 7, 5, 6)


def test_concat() -> None:
    agree("Concat", [MAP, values(2, 1, 5, 6), MAP], axis=1)
    agree("Concat", [MAP, values(2, 7, 5, 1)], axis=-1)


def test_split() -> None:
    agree("Split", [MAP, np.array([3, 4])], axis=1, outputs=2)
    agree("Split", [MAP], axis=1, outputs=3, num_outputs=3)
    agree("Split", [MAP], axis=3, outputs=2, opset=13)
    agree("Split", [MAP], axis=1, outputs=2, split=[2, 5], opset=11)


@pytest.mark.parametrize("mode", ["constant", "reflect", "edge"])
@pytest.mark.parametrize("pads", [[0, 0, 1, 2, 0, 0, 3, 0], [1, 0, 0, 0, 0, 2, 0, 4], [0, 0, 0, -1, 0, 0, 2, 0]])
def test_pad(mode: str, pads: list[int]) -> None:
    if mode == "reflect" and pads[0]:
        pads = [0, *pads[1:]]  # nothing to reflect beyond the edge of a batch of two but its other image
    agree("Pad", [MAP, np.array(pads)], mode=mode)


@pytest.mark.parametrize(
    ("rest", "attributes"),
    [
        ([np.array([1, 2]), np.array(0.5, np.float32), np.array([-1])], {}),
        ([np.array([2, 1, 0, 3]), None, np.array([3, 2])], {"mode": "reflect"}),
        ([np.array([0, 0, 2, 1, 0, 0, 3, 2])], {"mode": "wrap", "opset": 19}),
        ([], {"opset": 10, "pads": [0, 0, 1, 1, 0, 0, 1, 2], "value": -1.0}),
    ],
)
def test_pad_inputs_and_versions(rest: list[Any], attributes: dict[str, Any]) -> None:
    agree("Pad", [MAP, *rest], **attributes)
