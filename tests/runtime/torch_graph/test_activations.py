from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from tests.runtime.torch_graph.agreement import agree, values

MAP = 3 * values(2, 4, 5, 7)


@pytest.mark.parametrize(
    ("operator", "attributes"),
    [
        ("Relu", {}),
        ("LeakyRelu", {}),
        ("LeakyRelu", {"alpha": 0.2}),
        ("Elu", {}),
        ("Elu", {"alpha": 0.3}),
        ("Selu", {}),
        ("Celu", {"alpha": 2.0}),
        ("HardSigmoid", {}),
        ("HardSigmoid", {"alpha": 1 / 6}),
        ("HardSwish", {}),
        ("Gelu", {"opset": 20}),
        ("Gelu", {"opset": 20, "approximate": "tanh"}),
        ("Gelu", {"domain": "com.microsoft"}),
        ("Softplus", {}),
        ("Softsign", {}),
        ("Mish", {}),
        ("Sigmoid", {}),
        ("Tanh", {}),
        ("Erf", {}),
        ("Softmax", {}),
        ("Softmax", {"axis": 1}),
        ("Softmax", {"opset": 11}),
        ("LogSoftmax", {"axis": 2}),
        ("LogSoftmax", {"opset": 11, "axis": 2}),
        ("Dropout", {}),
        ("ThresholdedRelu", {"alpha": 0.7}),  # by ONNX's own definition of it
    ],
)
def test_activation(operator: str, attributes: dict[str, Any]) -> None:
    agree(operator, [MAP], **attributes)


def test_prelu_broadcasts_its_slope() -> None:
    agree("PRelu", [MAP, values(4, 1, 1, seed=1)])
    agree("PRelu", [MAP, np.array([0.1], np.float32)])


def test_clip() -> None:
    low, high = np.array(-1, np.float32), np.array(0.5, np.float32)
    agree("Clip", [MAP, low, high])
    agree("Clip", [MAP, None, high])
    agree("Clip", [MAP, high, low])
    agree("Clip", [MAP], opset=10, min=0.0)
