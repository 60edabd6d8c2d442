from __future__ import annotations

from typing import Any

import pytest

from tests.runtime.torch_graph.agreement import agree, values

WINDOWS: list[dict[str, Any]] = [
    {},
    {"strides": [2, 2]},
    {"strides": [2, 3], "pads": [1, 0, 0, 2]},
    {"strides": [2, 2], "pads": [1, 1, 1, 1], "ceil_mode": 1},
    {"strides": [3, 2], "ceil_mode": 1},
    {"strides": [2, 2], "auto_pad": "SAME_UPPER"},
    {"strides": [2, 2], "auto_pad": "SAME_LOWER"},
    {"strides": [2, 2], "auto_pad": "VALID"},
]


@pytest.mark.parametrize("attributes", WINDOWS)
def test_windows(attributes: dict[str, Any]) -> None:
    maps = values(2, 3, 10, 13) - 3  # all negative: a pad of zeros would win the maximum
    agree("MaxPool", [maps], kernel_shape=[3, 3], **attributes)
    agree("AveragePool", [maps], kernel_shape=[3, 3], **attributes)
    agree("AveragePool", [maps], kernel_shape=[3, 3], count_include_pad=1, opset=19, **attributes)


@pytest.mark.parametrize("stride", [8, 3])
def test_a_window_larger_than_the_map(stride: int) -> None:
    """A model that was exported for one size, on a smaller image: onnxruntime runs one cut window."""
    maps = values(1, 2, 6, 7)
    window = {"kernel_shape": [8, 8], "strides": [stride, stride]}
    agree("AveragePool", [maps], **window)
    agree("AveragePool", [maps], opset=19, **window)
    agree("MaxPool", [maps], **window)


def test_dilated_maximum() -> None:
    agree("MaxPool", [values(2, 3, 10, 13)], kernel_shape=[3, 2], dilations=[2, 3], pads=[1, 0, 1, 1])


@pytest.mark.parametrize("operator", ["GlobalAveragePool", "GlobalMaxPool"])
def test_whole_maps(operator: str) -> None:
    agree(operator, [values(2, 3, 10, 13)])
