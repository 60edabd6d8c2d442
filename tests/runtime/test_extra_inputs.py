"""Constants as tensors of whatever shape the model declares."""

from __future__ import annotations

import numpy as np
import pytest
from onnx import TensorProto

from kdguard.export.errors import UserError
from kdguard.export.model_card import CardOverrides
from kdguard.runtime.extra_inputs import fill_input, known_sizes
from kdguard.runtime.resolve_card import resolve_card
from kdguard.runtime.session import RestorationSession
from tests.conftest import make_conv_net, photograph
from tests.foreign_models import with_input_shape, with_noise_level

IMAGE = photograph(37).astype(np.float32) / 255


@pytest.mark.parametrize(
    ("declared", "values", "expected"),
    [
        ([], [2.0], ()),
        ([1], [2.0], (1,)),
        ([None], [2.0, 3.0], (2,)),
        (["n"], [2.0], (1,)),
        ([3], [1.0, 2.0, 3.0], (3,)),
        ([1, 1, None, None], [2.0], (1, 1, 8, 9)),
        (["n", 1, "h", "w"], [2.0], (1, 1, 8, 9)),
        (["n", None, None, None], [2.0], (1, 1, 8, 9)),
        ([1, 3, "a", "b"], [1.0, 2.0, 3.0], (1, 3, 8, 9)),
        ([2, 2], [1.0, 2.0, 3.0, 4.0], (2, 2)),
        ([1, 2, None], [5.0], (1, 2, 1)),
    ],
)
def test_shapes(declared: list[int | str | None], values: list[float], expected: tuple[int, ...]) -> None:
    image = (1, 3, 8, 9)
    filled = fill_input("level", declared, values, image, known_sizes(["n", 3, "h", "w"], image))
    assert filled.shape == expected
    if len(values) == 1:
        assert (filled == values[0]).all()
    else:
        assert sorted(set(filled.ravel())) == sorted(values)


def test_one_value_per_channel() -> None:
    filled = fill_input("level", [1, None, None, 3], [1.0, 2.0, 3.0], (1, 8, 9, 3), {})
    np.testing.assert_array_equal(filled[0, 4, 5], [1, 2, 3])


def test_values_that_do_not_fit() -> None:
    with pytest.raises(UserError, match=r"'level' of shape .* 2 values"):
        fill_input("level", [3], [1.0, 2.0], (1, 3, 8, 9), {})


@pytest.mark.parametrize(
    ("shape", "kind"),
    [
        ([], TensorProto.FLOAT),
        ([1], TensorProto.INT64),
        ([1], TensorProto.DOUBLE),
        ([1, 1, "h", "w"], TensorProto.FLOAT),
        ([1, 1, "a", "b"], TensorProto.FLOAT16),
        (["n", 3, 1, 1], TensorProto.FLOAT),
        ([1], TensorProto.INT32),
    ],
)
def test_in_a_session(shape: list[int | str], kind: int) -> None:
    model = with_noise_level(make_conv_net(), shape, kind)
    card = resolve_card(model, "denoising", overrides=CardOverrides(extra_inputs={"level": (2.0,)}))
    assert card.extra_inputs == {"level": [2.0]}
    expected = 2 * RestorationSession(make_conv_net(), card).restore(IMAGE)
    np.testing.assert_allclose(RestorationSession(model, card).restore(IMAGE), expected, rtol=1e-4, atol=1e-6)


def test_a_map_beside_a_batch_of_fixed_size() -> None:
    model = with_input_shape(with_noise_level(make_conv_net(), [2, 1, 24, 24]), 2, 3, 24, 24)
    card = resolve_card(model, "denoising", overrides=CardOverrides(extra_inputs={"level": (2.0,)}))
    expected = 2 * RestorationSession(make_conv_net(), card.model_copy(update={"fixed_size": None})).restore(IMAGE)
    np.testing.assert_allclose(RestorationSession(model, card).restore(IMAGE), expected, rtol=1e-4, atol=1e-5)
