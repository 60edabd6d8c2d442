"""The views of an ensemble: those that cost nothing on image pairs, and go through the network as one batch."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from kdguard.export.errors import UserError
from kdguard.export.image_pairs import ImagePair
from kdguard.export.model_card import ModelCard
from kdguard.graph_passes.insert_svd_perturb import InsertSvdPerturb
from kdguard.graph_passes.op import SvdPerturbAttributes
from kdguard.runtime.box.choose_views import choose_views
from tests.conftest import make_conv_net, make_model, photograph

CARD = ModelCard(task="deraining", input_name="image", output_name="restored")
HINTS = {"map": 1}
CLEAN = photograph(48).astype(np.float32)[:, :40] / 255


def pair(name: str = "a") -> ImagePair:
    noise = np.random.default_rng(0).normal(0, 0.05, CLEAN.shape).astype(np.float32)
    return ImagePair(name, np.clip(CLEAN + noise, 0, 1), CLEAN)


def with_map(nodes: list[onnx.NodeProto], constants: dict[str, np.ndarray]) -> onnx.ModelProto:
    """image -> a convolution that changes nothing -> map -> the nodes -> restored."""
    same = np.eye(3, dtype=np.float32).reshape(3, 3, 1, 1)
    return make_model(
        [helper.make_node("Conv", ["image", "same"], ["map"], "conv"), *nodes], {"same": same, **constants}
    )


def ramp(axis: int) -> onnx.ModelProto:
    """Adds what grows along one axis, so that only flips of the other one leave the image as good as it was."""
    shape = [1, 1, 1, 1]
    shape[axis] = (48, 40)[axis - 2]
    values = np.linspace(0, 0.5, shape[axis], dtype=np.float32).reshape(shape)
    return with_map([helper.make_node("Add", ["map", "ramp"], ["restored"])], {"ramp": values})


def undone(model: onnx.ModelProto, axis: int) -> list[ImagePair]:
    """A pair that the model restores exactly."""
    values = numpy_helper.to_array(model.graph.initializer[1])[0].transpose(1, 2, 0)
    return [ImagePair("a", CLEAN - values, CLEAN)]


def test_harmless_flips_are_found() -> None:
    assert choose_views(make_conv_net(), CARD, [pair()], {"b": 2}) == (0, 2, 4, 6)


@pytest.mark.parametrize(("axis", "views"), [(2, (0, 4)), (3, (0, 6))])
def test_flips_that_hurt_are_left_out(axis: int, views: tuple[int, ...]) -> None:
    model = ramp(axis)
    assert choose_views(model, CARD, undone(model, axis), HINTS) == views


def test_no_flip_is_tolerated() -> None:
    rng = np.random.default_rng(1)
    values = rng.random((1, 1, 48, 40), np.float32)
    model = with_map([helper.make_node("Add", ["map", "ramp"], ["restored"])], {"ramp": values})
    with pytest.raises(UserError, match="every flip of the image costs the model more than"):
        choose_views(model, CARD, undone(model, 2), HINTS)


def test_images_of_a_batch_that_see_each_other_are_no_views() -> None:
    nodes = [
        helper.make_node("Slice", ["map", "zero", "one", "zero"], ["first"]),
        helper.make_node("Add", ["map", "first"], ["sum"]),
        helper.make_node("Mul", ["sum", "half"], ["restored"]),
    ]
    constants = {"zero": np.zeros(1, np.int64), "one": np.ones(1, np.int64), "half": np.array(0.5, np.float32)}
    model = with_map(nodes, constants)
    with pytest.raises(UserError, match="answers images of one batch otherwise than one by one"):
        choose_views(model, CARD, [pair()], HINTS)


def test_a_network_of_one_image_is_refused() -> None:
    nodes = [
        helper.make_node("Reshape", ["map", "shape"], ["flat"]),
        helper.make_node("Reshape", ["flat", "back"], ["restored"]),
    ]
    model = with_map(nodes, {"shape": np.array([1, 3, -1]), "back": np.array([1, 3, 48, 40])})
    with pytest.raises(UserError, match="does not take the views of an image as one batch"):
        choose_views(model, CARD, [pair()], HINTS)


def test_in_path_layers_do_not_stand_in_the_way() -> None:
    """With a key they are off, in the batch and one by one."""
    gain = SvdPerturbAttributes(rank=2, gain=1.5)
    model = InsertSvdPerturb(["d"], gain, placement="in-path")(make_conv_net()).model
    assert choose_views(model, CARD, [pair()], {"b": 2}) == (0, 2, 4, 6)


def test_channels_last() -> None:
    model = ramp(3)
    for node in model.graph.node:
        node.input[:] = ["chw" if name == "image" else name for name in node.input]
        node.output[:] = ["answer" if name == "restored" else name for name in node.output]
    model.graph.node.insert(0, helper.make_node("Transpose", ["image"], ["chw"], perm=[0, 3, 1, 2]))
    model.graph.node.append(helper.make_node("Transpose", ["answer"], ["restored"], perm=[0, 2, 3, 1]))
    for value in (model.graph.input[0], model.graph.output[0]):
        value.CopyFrom(helper.make_tensor_value_info(value.name, TensorProto.FLOAT, ["n", "h", "w", 3]))
    card = CARD.model_copy(update={"layout": "NHWC"})
    assert choose_views(model, card, undone(ramp(3), 3), HINTS) == (0, 6)


def test_what_is_padded_is_padded_before_it_is_turned() -> None:
    card = CARD.model_copy(update={"size_multiple": 64})
    assert choose_views(make_conv_net(), card, [pair()], {"b": 2}) == (0, 2, 4, 6)


def test_a_model_of_one_size_is_refused() -> None:
    card = CARD.model_copy(update={"fixed_size": (32, 32)})
    with pytest.raises(UserError, match="takes images of one size"):
        choose_views(make_conv_net(), card, [pair()], {"b": 2})
