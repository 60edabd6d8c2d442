from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from tests.runtime.torch_graph.agreement import agree, values

MAP = values(2, 3, 6, 7)
SCALES = [np.array([1, 1, 2, 3], np.float32), np.array([1, 1, 0.6, 1.7], np.float32)]
RULES = ["half_pixel", "pytorch_half_pixel", "align_corners", "asymmetric"]


@pytest.mark.parametrize("rule", [*RULES, "half_pixel_symmetric"])
@pytest.mark.parametrize("mode", ["linear", "cubic"])
def test_interpolation(mode: str, rule: str) -> None:
    options: dict[str, Any] = {"mode": mode, "coordinate_transformation_mode": rule, "opset": 19}
    for scales in SCALES:
        agree("Resize", [MAP, None, scales], **options)
    agree("Resize", [MAP, None, None, np.array([2, 3, 11, 4])], **options)
    agree("Resize", [MAP, None, None, np.array([2, 3, 1, 4])], **options)


@pytest.mark.parametrize("rounding", ["round_prefer_floor", "round_prefer_ceil", "floor", "ceil"])
@pytest.mark.parametrize("rule", [*RULES, "tf_half_pixel_for_nn"])
def test_nearest(rule: str, rounding: str) -> None:
    options = {"mode": "nearest", "coordinate_transformation_mode": rule, "nearest_mode": rounding, "opset": 13}
    for scales in SCALES:
        agree("Resize", [MAP, None, scales], **options)
    # Sizes without a tie: there the last bit decides, and runtimes differ.
    agree("Resize", [MAP, None, None, np.array([2, 3, 11, 5])], **options)


@pytest.mark.parametrize("mode", ["linear", "cubic"])
def test_antialiasing(mode: str) -> None:
    agree("Resize", [MAP, None, np.array([1, 1, 0.5, 0.4], np.float32)], mode=mode, antialias=1)
    agree("Resize", [MAP, None, np.array([1, 1, 2, 0.4], np.float32)], mode=mode, antialias=1)
    agree("Resize", [MAP, None, np.array([1, 1, 0.5, 0.4], np.float32)], mode=mode, antialias=1, exclude_outside=1)


def test_cubic_attributes() -> None:
    agree("Resize", [MAP, None, SCALES[1]], mode="cubic", cubic_coeff_a=-0.5)
    agree("Resize", [MAP, None, SCALES[0]], mode="cubic", exclude_outside=1)


def test_some_axes() -> None:
    agree("Resize", [MAP, None, np.array([2, 3], np.float32)], mode="linear", axes=[2, 3])
    for policy in ("not_larger", "not_smaller"):
        sizes = np.array([9, 14])
        agree("Resize", [MAP, None, None, sizes], mode="linear", axes=[2, 3], keep_aspect_ratio_policy=policy)


def test_older_versions() -> None:
    agree("Resize", [MAP, SCALES[0]], opset=10)
    agree("Resize", [MAP, SCALES[0]], opset=10, mode="linear")
    agree("Upsample", [MAP, SCALES[0]], opset=9)
    agree("Upsample", [MAP, SCALES[0]], opset=9, mode="linear")


@pytest.mark.parametrize("padding", ["zeros", "border", "reflection"])
@pytest.mark.parametrize("corners", [0, 1])
def test_sampling_at_given_places(corners: int, padding: str) -> None:
    places = values(2, 4, 5, 2, seed=1)
    options: dict[str, Any] = {"align_corners": corners, "padding_mode": padding}
    for mode in ("bilinear", "nearest", "bicubic"):
        agree("GridSample", [MAP, places], opset=16, mode=mode, **options)
    for mode in ("linear", "nearest", "cubic"):
        agree("GridSample", [MAP, places], opset=20, mode=mode, **options)
