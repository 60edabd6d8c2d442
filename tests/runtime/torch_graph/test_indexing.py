from __future__ import annotations

import numpy as np
import pytest

from tests.runtime.torch_graph.agreement import agree, values

MAP = values(4, 6, 7)
ENDLESS = np.iinfo(np.int64).max


@pytest.mark.parametrize(
    ("starts", "ends", "axes", "steps"),
    [
        ([1], [3], [1], None),
        ([-3], [ENDLESS], [2], None),
        ([0, 1], [ENDLESS, -1], [0, -1], [2, 3]),
        ([-1], [-ENDLESS], [1], [-1]),
        ([5], [0], [2], [-2]),
        ([100], [-100], [1], [-3]),
        ([4], [2], [1], [1]),
        ([1, 2, 3], [3, 4, 5], None, None),
    ],
)
def test_slice(starts: list[int], ends: list[int], axes: list[int] | None, steps: list[int] | None) -> None:
    optional = [None if numbers is None else np.array(numbers) for numbers in (axes, steps)]
    agree("Slice", [MAP, np.array(starts), np.array(ends), *optional])


def test_slice_of_old() -> None:
    agree("Slice", [MAP], opset=9, starts=[1], ends=[-1], axes=[2])


@pytest.mark.parametrize("indices", [np.array(2), np.array([-1, 0]), np.array([[0, 1], [-2, 3]])])
def test_gather(indices: np.ndarray) -> None:
    agree("Gather", [MAP, indices])
    agree("Gather", [MAP, indices], axis=-1)


def test_gather_by_element_and_by_tuple() -> None:
    agree("GatherElements", [MAP, np.random.default_rng(0).integers(-6, 6, (4, 3, 7))], axis=1)
    agree("GatherND", [MAP, np.array([[0, 1], [-1, 5]])])


@pytest.mark.parametrize("reduction", ["none", "add"])
def test_scatter(reduction: str) -> None:
    agree("ScatterND", [MAP, np.array([[0, 1], [-1, 5]]), values(2, 7, seed=1)], reduction=reduction)
    agree("ScatterElements", [MAP, np.array([[[0, -1]]]), values(1, 1, 2, seed=1)], axis=2, reduction=reduction)


def test_triangles() -> None:
    agree("Trilu", [MAP])
    agree("Trilu", [MAP, np.array(-1)], upper=0)
