from __future__ import annotations

import numpy as np
import pytest

from tests.runtime.torch_graph.agreement import agree, values

REAL, COMPLEX = values(2, 6, 7, 1), values(2, 6, 7, 2)


@pytest.mark.parametrize("inverse", [0, 1])
@pytest.mark.parametrize("axis", [1, 2, -2, -3])
def test_complex_signals(axis: int, inverse: int) -> None:
    agree("DFT", [COMPLEX], opset=17, axis=axis, inverse=inverse)
    agree("DFT", [COMPLEX, None, np.array(axis)], opset=20, inverse=inverse)


def test_axis_by_default() -> None:
    agree("DFT", [REAL], opset=17)  # the second
    agree("DFT", [REAL], opset=20)  # the last


def test_real_signals_one_sided() -> None:
    agree("DFT", [REAL], opset=17, axis=2, onesided=1)
    agree("DFT", [REAL, np.array(5), np.array(1)], opset=20, onesided=1)
    agree("DFT", [REAL, np.array(9)], opset=17, axis=2)


@pytest.mark.parametrize("length", [10, 11])
def test_back_to_a_real_signal(length: int) -> None:
    spectrum = values(2, 6, length // 2 + 1, 2)
    agree("DFT", [spectrum, np.array(length)], opset=17, axis=2, inverse=1, onesided=1)
    agree("DFT", [spectrum, np.array(length), np.array(2)], opset=20, inverse=1, onesided=1)
