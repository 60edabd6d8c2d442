"""Image sizes of engines: what may be asked for, and what the network's inputs become."""

from __future__ import annotations

import pytest
from onnx import TensorProto, helper

from kdguard.export.errors import UserError
from kdguard.export.model_card import ModelCard
from kdguard.runtime.engines.shapes import Size, SizeRange, default_range, parse_range, profile
from tests.conftest import make_conv_net

CARD = ModelCard(task="deraining", input_name="image", output_name="restored")
SIZES = SizeRange(Size(64, 64), Size(100, 200), Size(300, 400))


def test_a_range() -> None:
    assert parse_range(("64x64", "100x200", "300x400"), CARD) == SIZES


@pytest.mark.parametrize(
    ("texts", "complaint"),
    [
        (("64", "100x200", "300x400"), "'64' is no image size; write HEIGHTxWIDTH"),
        (("0x64", "100x200", "300x400"), "'0x64' is no image size"),
        (("64x64", "-1x5", "300x400"), "'-1x5' is no image size"),
        (("64x64", "400x200", "300x400"), "the heights 64, 400 and 300 do not ascend"),
        (("64x64", "100x500", "300x400"), "the widths 64, 500 and 400 do not ascend"),
        (("64x64", "100x202", "300x400"), "100x202 is no multiple of 4"),
    ],
)
def test_what_makes_no_sense(texts: tuple[str, str, str], complaint: str) -> None:
    with pytest.raises(UserError, match=f"^--shapes: .*{complaint}"):
        parse_range(texts, CARD.model_copy(update={"size_multiple": 4}))


def test_the_default_suits_the_model() -> None:
    assert default_range(CARD.model_copy(update={"size_multiple": 32})) == ((64, 64), (736, 1280), (1088, 1920))


def test_free_sides_are_filled_in() -> None:
    assert profile(make_conv_net(), CARD, SIZES) == {"image": [[1, 3, 64, 64], [1, 3, 100, 200], [1, 3, 300, 400]]}


def test_channels_last_and_fixed_sides() -> None:
    model = make_conv_net()
    model.graph.input[0].CopyFrom(helper.make_tensor_value_info("image", TensorProto.FLOAT, [2, "h", 128, 3]))
    found = profile(model, CARD.model_copy(update={"layout": "NHWC"}), SIZES)
    assert found == {"image": [[2, 64, 128, 3], [2, 100, 128, 3], [2, 300, 128, 3]]}


def test_another_input_with_free_sides() -> None:
    model = make_conv_net()
    model.graph.input.append(helper.make_tensor_value_info("noise", TensorProto.FLOAT, ["n", 1]))
    with pytest.raises(UserError, match="the input 'noise' has free sides"):
        profile(model, CARD, SIZES)


@pytest.mark.parametrize(
    ("declared", "smallest"), [(["n", 1, "h", "w"], [1, 1, 64, 64]), (["n", 1, 1, 1], [1, 1, 1, 1]), ([1], [1])]
)
def test_a_map_beside_the_image(declared: list[object], smallest: list[int]) -> None:
    model = make_conv_net()
    model.graph.input.append(helper.make_tensor_value_info("noise", TensorProto.FLOAT, declared))
    assert profile(model, CARD, SIZES)["noise"][0] == smallest


def test_a_free_channel_axis_and_no_shape_at_all() -> None:
    model = make_conv_net()
    model.graph.input[0].CopyFrom(helper.make_tensor_value_info("image", TensorProto.FLOAT, ["n", "c", "h", "w"]))
    assert profile(model, CARD, SIZES)["image"][0] == [1, 3, 64, 64]
    model.graph.input[0].CopyFrom(helper.make_tensor_value_info("image", TensorProto.FLOAT, None))
    with pytest.raises(UserError, match="has no shape of four sides"):
        profile(model, CARD, SIZES)


def test_a_model_of_one_size() -> None:
    fixed = CARD.model_copy(update={"fixed_size": (48, 40)})
    assert default_range(fixed) == ((48, 40),) * 3
    with pytest.raises(UserError, match="the model takes images of 48x40 only"):
        parse_range(("64x64", "64x64", "64x64"), fixed)
