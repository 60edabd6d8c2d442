from __future__ import annotations

from typing import Any

import pytest

from tests.runtime.torch_graph.agreement import agree, values


@pytest.mark.parametrize(
    ("weight", "attributes"),
    [
        ((5, 4, 3, 3), {}),
        ((5, 4, 3, 3), {"pads": [1, 1, 1, 1]}),
        ((5, 4, 3, 3), {"pads": [0, 2, 1, 0]}),
        ((5, 4, 3, 3), {"pads": [0, 2, 1, 0], "strides": [2, 3], "dilations": [2, 1]}),
        ((6, 2, 3, 5), {"group": 2, "pads": [1, 2, 1, 2]}),
        ((4, 1, 3, 3), {"group": 4}),
        ((5, 4, 4, 4), {"auto_pad": "SAME_UPPER"}),
        ((5, 4, 4, 4), {"auto_pad": "SAME_LOWER"}),
        ((5, 4, 4, 3), {"auto_pad": "SAME_UPPER", "strides": [2, 3]}),
        ((5, 4, 3, 3), {"auto_pad": "VALID", "strides": [2, 2]}),
    ],
)
def test_conv(weight: tuple[int, ...], attributes: dict[str, Any]) -> None:
    agree("Conv", [values(2, 4, 11, 13), values(*weight, seed=1), values(weight[0], seed=2)], **attributes)
    agree("Conv", [values(2, 4, 11, 13), values(*weight, seed=1)], **attributes)


def test_conv_in_one_and_three_dimensions() -> None:
    agree("Conv", [values(2, 4, 11), values(5, 4, 3, seed=1)], pads=[2, 1])
    agree("Conv", [values(1, 2, 6, 7, 5), values(3, 2, 3, 3, 3, seed=1), values(3)], pads=[1, 0, 1, 0, 1, 1])


@pytest.mark.parametrize(
    "attributes",
    [
        {},
        {"strides": [2, 2], "pads": [1, 1, 1, 1]},
        {"strides": [2, 2], "pads": [1, 1, 1, 1], "output_padding": [1, 1]},
        {"strides": [2, 3], "pads": [0, 1, 2, 0], "output_padding": [1, 2]},
        {"strides": [3, 2], "pads": [0, 0, 0, 0], "output_padding": [2, 1]},
        {"strides": [2, 2], "dilations": [2, 1], "pads": [0, 1, 1, 0]},
        {"strides": [2, 2], "auto_pad": "SAME_UPPER"},
        {"strides": [2, 2], "auto_pad": "SAME_LOWER"},
        {"strides": [2, 2], "auto_pad": "VALID"},
        {"strides": [2, 2], "output_shape": [12, 15]},
        {"strides": [2, 2], "output_shape": [12, 15], "auto_pad": "SAME_UPPER"},
    ],
)
def test_conv_transpose(attributes: dict[str, Any]) -> None:
    agree("ConvTranspose", [values(2, 4, 6, 7), values(4, 3, 3, 3, seed=1), values(3)], **attributes)


def test_grouped_conv_transpose() -> None:
    agree("ConvTranspose", [values(1, 4, 6, 7), values(4, 3, 4, 4, seed=1)], group=2, strides=[2, 2], pads=[1, 0, 0, 1])
    agree("ConvTranspose", [values(1, 4, 9), values(4, 3, 4, seed=1), values(3)], strides=[2], pads=[1, 0])
