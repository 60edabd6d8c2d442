"""Tiles against the whole image: equal where the overlap covers the receptive field, and only there."""

from __future__ import annotations

import numpy as np
import pytest
from onnx import helper

from kdguard.export.errors import UserError
from kdguard.runtime.resolve_card import resolve_card
from kdguard.runtime.session import RestorationSession
from kdguard.runtime.tiling import default_overlap, restore_tiled
from tests.conftest import conv_weights, make_conv_net, make_model, photograph
from tests.foreign_models import with_input_shape

RADIUS = 3
"""`make_conv_net` has three 3x3 convolutions in a row."""


def image(height: int, width: int) -> np.ndarray:
    return photograph(130)[:height, :width].astype(np.float32) / 255


def session_of(model: object) -> RestorationSession:
    return RestorationSession(model, resolve_card(model, "deraining"))  # type: ignore[arg-type]


@pytest.mark.parametrize("size", [(32, 32), (33, 47), (100, 129), (31, 90), (12, 13), (1, 1)])
@pytest.mark.parametrize("overlap", [RADIUS, 7])
def test_tiles_equal_the_whole_image(size: tuple[int, int], overlap: int) -> None:
    session = session_of(make_conv_net())
    whole = session.restore(image(*size))
    tiled = restore_tiled(session, image(*size), 32, overlap)
    assert tiled.shape == whole.shape
    np.testing.assert_allclose(tiled, whole, atol=1e-5)


def test_too_little_overlap_shows() -> None:
    session = session_of(make_conv_net())
    whole = session.restore(image(100, 100))
    assert np.abs(restore_tiled(session, image(100, 100), 32, RADIUS - 1) - whole).max() > 1e-4


def test_strides_and_scale_keep_their_phase() -> None:
    """Half the size inside, twice the size outside; sizes that no tile divides."""
    nodes = [
        helper.make_node("Conv", ["image", "w"], ["low"], pads=[1, 1, 1, 1], strides=[2, 2]),
        helper.make_node("DepthToSpace", ["low"], ["restored"], blocksize=4),
    ]
    session = session_of(make_model(nodes, {"w": conv_weights(0, 48, 3)}, output_shape=("n", 3, "h2", "w2")))
    assert (session.card.scale, session.card.size_multiple) == (2, 2)
    whole = session.restore(image(57, 71))
    np.testing.assert_allclose(restore_tiled(session, image(57, 71), (24, 32), 3), whole, atol=1e-5)


@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize("size", [(48, 40), (49, 200), (130, 130)])
def test_fixed_models_restore_any_size(size: tuple[int, int], batch: int) -> None:
    fixed = session_of(with_input_shape(make_conv_net(), batch, 3, 48, 40))
    assert (fixed.card.fixed_size, fixed.card.batch, fixed.card.scale) == ((48, 40), batch, 1)
    free = session_of(make_conv_net())
    expected = free.restore(image(*size))
    restored = fixed.restore(image(*size))
    assert restored.shape == expected.shape
    np.testing.assert_allclose(restored, expected, atol=1e-5)


@pytest.mark.parametrize("size", [(1, 1), (5, 60), (20, 20)])
def test_images_smaller_than_the_tile(size: tuple[int, int]) -> None:
    fixed = session_of(with_input_shape(make_conv_net(), 1, 3, 48, 40))
    restored = fixed.restore(image(*size))
    assert restored.shape == (*size, 3)
    assert np.isfinite(restored).all()
    expected = session_of(make_conv_net()).restore(image(*size))
    kept = tuple(slice(0, max(0, side - RADIUS)) for side in size)
    np.testing.assert_allclose(restored[kept], expected[kept], atol=1e-5)


def test_sizes_that_cannot_work() -> None:
    session = session_of(make_conv_net())
    for tile, overlap in ((16, 8), (16, -1), (0, 0)):
        with pytest.raises(UserError, match="do not work"):
            restore_tiled(session, image(60, 60), tile, overlap)
    fixed = session_of(with_input_shape(make_conv_net(), 1, 3, 48, 40))
    with pytest.raises(UserError, match="only"):
        restore_tiled(fixed, image(60, 60), 32, 4)


def test_default_overlap_leaves_half_of_the_tile() -> None:
    assert default_overlap((256, 512)) == 32
    assert default_overlap((16, 64)) == 4
