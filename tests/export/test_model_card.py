"""The card travels in the file; foreign models are read as far as their inputs tell."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from kdguard.export.errors import UserError
from kdguard.export.model_card import CARD_KEY, KEY_INPUT, CardOverrides, ModelCard, infer_card, read_card, write_card
from kdguard.export.onnx_files import load_onnx
from tests.conftest import make_conv_net, make_model


def test_card_survives_the_file(conv_net_file: Path, card: ModelCard) -> None:
    assert read_card(load_onnx(conv_net_file)) == card


def test_writing_twice_keeps_one_and_other_metadata(card: ModelCard) -> None:
    model = make_conv_net()
    model.metadata_props.add(key="author", value="someone")
    write_card(model, card)
    changed = card.model_copy(update={"scale": 4, "value_range": (-1.0, 1.0), "extra_inputs": {"sigma": [0.1]}})
    write_card(model, changed)
    assert read_card(model) == changed
    assert [entry.key for entry in model.metadata_props] == ["author", CARD_KEY]


def test_a_card_in_words(card: ModelCard) -> None:
    words = "deraining, NCHW, {}, range 0 to 1, scale 1, size multiple 1"
    assert card.describe() == words.format("3 channels")
    assert card.model_copy(update={"channels": 1}).describe() == words.format("1 channel")


def test_malformed_card_is_refused() -> None:
    model = make_conv_net()
    model.metadata_props.add(key=CARD_KEY, value='{"task": "deraining", "scale": 0}')
    with pytest.raises(UserError, match="malformed"):
        read_card(model)


@pytest.mark.parametrize(
    ("field", "what"),
    [
        ("input_name", "is empty; give a value; export"),
        ("scale", "is empty; give a value, or leave it out; export"),
        ("no_such_field", "is empty; give a value, or leave it out; export"),
    ],
)
def test_an_empty_field_may_be_left_out_where_it_has_a_default(field: str, what: str) -> None:
    model = make_conv_net()
    given = {"input_name": "image", "output_name": "restored", field: None}
    model.metadata_props.add(key=CARD_KEY, value=json.dumps(given))
    with pytest.raises(UserError, match=f"malformed: {field}: {what}"):
        read_card(model)


def test_infer_layouts_and_channels() -> None:
    assert infer_card(make_conv_net(), "deraining").layout == "NCHW"
    relu = [helper.make_node("Relu", ["image"], ["restored"])]
    nhwc = infer_card(make_model(relu, {}, shape=("n", "h", "w", 3)), "dehazing")
    assert (nhwc.layout, nhwc.channels) == ("NHWC", 3)
    grey = infer_card(make_model(relu, {}, shape=("n", 1, "h", "w")), "denoising")
    assert (grey.layout, grey.channels) == ("NCHW", 1)


def test_no_image_input() -> None:
    relu = [helper.make_node("Relu", ["image"], ["restored"])]
    with pytest.raises(UserError, match="exactly one 4-D"):
        infer_card(make_model(relu, {}, shape=("n", 10)), "deraining")


@pytest.mark.parametrize(
    ("shape", "fixed_size", "batch"),
    [
        ((1, 3, 64, 48), (64, 48), 1),
        ((2, 3, "h", "w"), None, 2),
        ((1, 3, "h", "w"), None, 1),
        ((4, 3, 64, "w"), (64, 64), 4),
        ((1, 40, 32, 3), (40, 32), 1),
    ],
)
def test_fixed_sizes(shape: tuple[object, ...], fixed_size: tuple[int, int] | None, batch: int) -> None:
    relu = [helper.make_node("Relu", ["image"], ["restored"])]
    card = infer_card(make_model(relu, {}, shape=shape), "deraining")
    assert (card.fixed_size, card.batch) == (fixed_size, batch)


def test_four_channels_are_refused() -> None:
    relu = [helper.make_node("Relu", ["image"], ["restored"])]
    model = make_model(relu, {}, shape=("n", 4, "h", "w"))
    with pytest.raises(UserError, match=r"4 channels.* say --layout"):
        infer_card(model, "deraining")
    with pytest.raises(UserError, match=r"say teacher\.layout"):
        infer_card(model, "deraining", overrides=CardOverrides(in_pipeline=True))


def test_the_user_knows_better(card: ModelCard) -> None:
    relu = [helper.make_node("Relu", ["image"], ["restored"])]
    anything = make_model(relu, {}, shape=("n", "a", "b", "c"))
    said = CardOverrides((-1.0, 1.0), "NHWC", 8, {"image2": (1.0,)})
    with pytest.raises(UserError, match="no such input; it has image"):
        infer_card(anything, "deraining", overrides=said)
    said = CardOverrides((-1.0, 1.0), "NHWC", 8)
    found = infer_card(anything, "deraining", overrides=said)
    assert (found.value_range, found.layout, found.size_multiple) == ((-1.0, 1.0), "NHWC", 8)
    assert said.apply(card).layout == "NHWC"
    assert CardOverrides().apply(card) == card
    assert not CardOverrides()
    with pytest.raises(UserError, match="--value-range: white must be above black"):
        CardOverrides((1.0, 0.0)).apply(card)
    with pytest.raises(UserError, match="--size-multiple"):
        CardOverrides(size_multiple=0).apply(card)


def test_inputs_that_get_a_value_are_not_the_image() -> None:
    model = make_conv_net()
    model.graph.input.append(helper.make_tensor_value_info("map", TensorProto.FLOAT, ["n", 1, "h", "w"]))
    with pytest.raises(UserError, match="--extra-input NAME=VALUE"):
        infer_card(model, "denoising")
    card = infer_card(model, "denoising", overrides=CardOverrides(extra_inputs={"map": (0.1,)}))
    assert (card.input_name, card.extra_inputs) == ("image", {"map": [0.1]})


def test_further_inputs_need_default_values() -> None:
    model = make_conv_net()
    model.graph.input.append(helper.make_tensor_value_info("sigma", TensorProto.FLOAT, [1]))
    with pytest.raises(UserError, match="sigma"):
        infer_card(model, "denoising")
    model.graph.initializer.append(onnx.numpy_helper.from_array(np.ones(1, np.float32), "sigma"))
    assert infer_card(model, "denoising").input_name == "image"


def test_the_first_output_that_may_be_an_image() -> None:
    model = make_conv_net()
    score = helper.make_tensor_value_info("score", TensorProto.FLOAT, [])
    model.graph.node.append(helper.make_node("ReduceMean", ["tail"], ["score"], keepdims=0))
    model.graph.output.insert(0, score)
    assert infer_card(model, "denoising").output_name == "restored"
    model.graph.output[0].type.tensor_type.ClearField("shape")
    assert infer_card(model, "denoising").output_name == "score"


def test_a_gates_key_is_no_further_input() -> None:
    model = make_conv_net()
    model.graph.input.append(helper.make_tensor_value_info(KEY_INPUT, TensorProto.FLOAT, [1024]))
    card = infer_card(model, "denoising")
    assert (card.input_name, card.extra_inputs) == ("image", {})
