"""Layout, range and padding, there and back."""

from __future__ import annotations

import numpy as np
import pytest

from kdguard.export.image_tensor import image_to_tensor, tensor_to_image
from kdguard.export.model_card import ModelCard


@pytest.mark.parametrize("layout", ["NCHW", "NHWC"])
@pytest.mark.parametrize("value_range", [(0.0, 1.0), (-1.0, 1.0), (0.0, 255.0)])
@pytest.mark.parametrize("size", [(16, 24), (15, 22), (3, 2)])
def test_round_trip(layout: str, value_range: tuple[float, float], size: tuple[int, int]) -> None:
    card = ModelCard(
        task="deraining", input_name="x", output_name="y", layout=layout, value_range=value_range, size_multiple=8
    )
    image = np.random.default_rng(0).random((*size, 3)).astype(np.float32)
    tensor = image_to_tensor(image, card)
    sides = tensor.shape[2:] if layout == "NCHW" else tensor.shape[1:3]
    assert all(side % 8 == 0 and 0 <= side - want < 8 for side, want in zip(sides, size, strict=True))
    assert value_range[0] <= tensor.min() and tensor.max() <= value_range[1]
    np.testing.assert_allclose(tensor_to_image(tensor, card, *size), image, atol=1e-6)


def test_black_and_white_map_to_the_range() -> None:
    card = ModelCard(task="deraining", input_name="x", output_name="y", value_range=(-1.0, 1.0))
    tensor = image_to_tensor(np.stack([np.zeros((4, 3)), np.ones((4, 3))]).astype(np.float32), card)
    assert tensor.min() == -1
    assert tensor.max() == 1


def test_one_fixed_size_whatever_the_image() -> None:
    card = ModelCard(task="deraining", input_name="x", output_name="y", fixed_size=(8, 12))
    image = np.random.default_rng(0).random((9, 10, 3)).astype(np.float32)
    tensor = image_to_tensor(image, card)
    assert tensor.shape == (1, 3, 8, 12)
    np.testing.assert_array_equal(tensor[0, :, :, :10], image[:8].transpose(2, 0, 1))
    assert image_to_tensor(image[:1, :1], card).shape == (1, 3, 8, 12)
    assert image_to_tensor(np.zeros((30, 40, 3), np.float32), card).shape == (1, 3, 8, 12)
