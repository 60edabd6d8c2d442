from __future__ import annotations

import numpy as np

from tests.runtime.torch_graph.agreement import agree, values

MAP = values(2, 6, 5, 7) + 2
SCALE, BIAS = values(6, seed=1), values(6, seed=2)


def test_batch_norm_takes_the_statistics_of_the_file() -> None:
    agree("BatchNormalization", [MAP, SCALE, BIAS, values(6, seed=3), np.abs(values(6, seed=4)) + 1], epsilon=1e-3)


def test_instance_norm() -> None:
    agree("InstanceNormalization", [MAP, SCALE, BIAS])
    agree("InstanceNormalization", [values(1, 6, 1, 1), SCALE, BIAS], epsilon=0.1)


def test_layer_norm() -> None:
    agree("LayerNormalization", [MAP, values(7), values(7, seed=1)])
    agree("LayerNormalization", [MAP, values(5, 7), values(5, 7, seed=1)], axis=2, epsilon=0.01)
    agree("LayerNormalization", [MAP, values(6, 5, 7)], axis=-3)


def test_group_norm() -> None:
    agree("GroupNormalization", [MAP, values(3), values(3, seed=1)], num_groups=3)
    agree("GroupNormalization", [MAP, SCALE, BIAS], num_groups=3, opset=21)


def test_lp_norm() -> None:
    agree("LpNormalization", [MAP], axis=1)
    agree("LpNormalization", [MAP], p=1)


def test_rms_norm() -> None:
    agree("RMSNormalization", [MAP, values(7)], opset=23)
    agree("RMSNormalization", [MAP, values(5, 7)], opset=23, axis=2, epsilon=0.1)


def test_onnx_defines_what_is_not_listed() -> None:
    agree("MeanVarianceNormalization", [MAP])
