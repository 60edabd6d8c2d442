"""The self-ensemble behind a gate: the mean over flips for who has a key, the same bits for who has none."""

from __future__ import annotations

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper

from kdguard.graph_passes.half_precision import HalfPrecision
from kdguard.graph_passes.insert_key_gate import gate_model, with_required_key
from kdguard.graph_passes.insert_svd_perturb import InsertSvdPerturb
from kdguard.graph_passes.insert_view_ensemble import InsertViewEnsemble, without_ensemble
from kdguard.graph_passes.key_gate import ENSEMBLE_OUTPUT, HINT_PREFIX, KEY_INPUT, SPREAD_OUTPUT, key_tensor
from kdguard.graph_passes.key_gate.views import ensemble_views
from kdguard.graph_passes.op import SvdPerturbAttributes
from kdguard.graph_passes.pass_base import PreconditionError
from kdguard.graph_passes.remove_key_gate import RemoveKeyGate
from kdguard.runtime.red_team.views import turn, turn_back
from tests.conftest import make_conv_net, make_model
from tests.graph_passes.key_gate.gate_models import secret

HOLDER, STRANGER = secret(0), secret(1)
RIGHT = {KEY_INPUT: key_tensor(HOLDER)}
SHUT = [{}, {KEY_INPUT: key_tensor(STRANGER)}, {KEY_INPUT: np.zeros(1024, np.float32)}]
IMAGES = np.random.default_rng(3).random((2, 3, 10, 14), np.float32)
"""Two, and not square: each must meet its own views, and height and width their own axes."""


def gated(opset: int = 17) -> onnx.ModelProto:
    model = make_conv_net(opset=opset)
    hardened = InsertSvdPerturb(["b", "d"], SvdPerturbAttributes(rank=2, gain=10.0))(model).model
    return gate_model(hardened, [HOLDER], ["b"])


def turned(images: np.ndarray, view: int, *, back: bool = False) -> np.ndarray:
    """Views of [N, C, H, W], by the functions that the recipes use."""
    move = turn_back if back else turn
    return np.stack([move(image.transpose(1, 2, 0), view).transpose(2, 0, 1) for image in images])


@pytest.mark.parametrize("opset", [15, 17, 18, 21])
@pytest.mark.parametrize("views", [(0, 4), (0, 2, 6), (0, 2, 4, 6)])
def test_a_right_key_gives_mean_and_spread(views: tuple[int, ...], opset: int) -> None:
    model = gated(opset)
    ensemble = InsertViewEnsemble(views)(model).model
    onnx.checker.check_model(ensemble)
    assert ensemble_views(ensemble) == views
    single = [restored(model, turned(IMAGES, view), RIGHT) for view in views]
    answers = [turned(answer, view, back=True) for answer, view in zip(single, views, strict=True)]
    found = named(ensemble, {"image": IMAGES, **RIGHT})
    np.testing.assert_allclose(found[ENSEMBLE_OUTPUT], np.mean(answers, 0), atol=1e-6)
    np.testing.assert_allclose(found[SPREAD_OUTPUT], np.std(answers, 0).mean(1, keepdims=True), atol=1e-6)
    assert found[SPREAD_OUTPUT].std() > 1e-4
    plain = named(model, {"image": IMAGES, **RIGHT})
    for name in ("restored", f"{HINT_PREFIX}b"):
        np.testing.assert_allclose(found[name], plain[name], atol=1e-6)


@pytest.mark.parametrize("further", SHUT)
def test_without_a_right_key_no_bit_changes(further: dict[str, np.ndarray]) -> None:
    model = gated()
    found = named(InsertViewEnsemble([2, 4, 6])(model).model, {"image": IMAGES, **further})
    np.testing.assert_array_equal(found["restored"], restored(model, IMAGES))
    assert found[ENSEMBLE_OUTPUT].shape == (0, 3, 10, 14)
    assert found[SPREAD_OUTPUT].shape == (0, 1, 10, 14)
    assert len(found[f"{HINT_PREFIX}b"]) == 0


def test_channels_last() -> None:
    model = gated()
    turned_in, turned_out = (helper.make_node("Transpose", [a], [b], perm=p) for a, b, p in TRANSPOSES)
    for node in model.graph.node:
        node.input[:] = ["chw" if name == "image" else name for name in node.input]
        node.output[:] = ["answer" if name == "restored" else name for name in node.output]
    model.graph.node.insert(1, turned_in)  # behind the gate, which comes first
    model.graph.node.append(turned_out)
    for values in (model.graph.input[0], model.graph.output[0]):
        values.CopyFrom(helper.make_tensor_value_info(values.name, TensorProto.FLOAT, ["n", "h", "w", 3]))
    images = np.ascontiguousarray(IMAGES.transpose(0, 2, 3, 1))
    found = named(InsertViewEnsemble([4, 6], spatial_axes=(1, 2))(model).model, {"image": images, **RIGHT})
    expected = named(InsertViewEnsemble([4, 6])(gated()).model, {"image": IMAGES, **RIGHT})
    for name in (ENSEMBLE_OUTPUT, SPREAD_OUTPUT):
        np.testing.assert_allclose(found[name], expected[name].transpose(0, 2, 3, 1), atol=1e-6)


TRANSPOSES = (("image", "chw", [0, 3, 1, 2]), ("answer", "restored", [0, 2, 3, 1]))


def test_maps_with_several_entries_an_image() -> None:
    """As of windows: their first axis counts windows of all images."""
    nodes = [
        helper.make_node("Conv", ["image", "same"], ["map"], "conv"),
        helper.make_node("Reshape", ["map", "halves"], ["split"]),
        helper.make_node("Transpose", ["split"], ["turned"], perm=[0, 2, 1, 3, 4]),
        helper.make_node("Reshape", ["turned", "flat"], ["windows"]),
        helper.make_node("Conv", ["windows", "same"], ["changed"], "in windows"),
        helper.make_node("Reshape", ["changed", "turned_shape"], ["split again"]),
        helper.make_node("Transpose", ["split again"], ["back"], perm=[0, 2, 1, 3, 4]),
        helper.make_node("Reshape", ["back", "whole"], ["restored"]),
    ]
    constants = {
        "same": np.eye(3, dtype=np.float32).reshape(3, 3, 1, 1),
        "halves": np.array([-1, 3, 2, 5, 14]),
        "flat": np.array([-1, 3, 5, 14]),
        "turned_shape": np.array([-1, 2, 3, 5, 14]),
        "whole": np.array([-1, 3, 10, 14]),
    }
    model = gate_model(make_model(nodes, constants), [HOLDER], {"changed": 2})
    name = f"{HINT_PREFIX}changed"
    expected = named(model, {"image": IMAGES, **RIGHT})[name]
    assert len(expected) == 4
    found = named(InsertViewEnsemble([2, 4])(model).model, {"image": IMAGES, **RIGHT})[name]
    np.testing.assert_allclose(found, expected, atol=1e-6)


def test_half_precision() -> None:
    model = make_conv_net(dtype=TensorProto.FLOAT16)
    hardened = InsertSvdPerturb(["b"], SvdPerturbAttributes(rank=2, gain=10.0))(model).model
    images = IMAGES.astype(np.float16)
    ensemble = InsertViewEnsemble([4])(gate_model(hardened, [HOLDER])).model
    found = named(ensemble, {"image": images, **RIGHT})
    answers = [restored(model, images), turned(restored(model, turned(images, 4)), 4)]
    assert found[ENSEMBLE_OUTPUT].dtype == np.float32
    np.testing.assert_allclose(found[ENSEMBLE_OUTPUT], np.mean(answers, 0, np.float32), atol=5e-3)


def test_taken_out_byte_for_byte() -> None:
    model = onnx.shape_inference.infer_shapes(gated())
    before = model.SerializeToString(deterministic=True)
    ensemble = InsertViewEnsemble([2, 4])(model).model
    assert model.SerializeToString(deterministic=True) == before
    assert without_ensemble(ensemble).SerializeToString(deterministic=True) == before
    assert without_ensemble(model) is model
    hardened = RemoveKeyGate()(model).model.SerializeToString(deterministic=True)
    assert RemoveKeyGate()(ensemble).model.SerializeToString(deterministic=True) == hardened


def test_an_engine_has_none() -> None:
    required = with_required_key(InsertViewEnsemble([2])(gated()).model)
    assert ensemble_views(required) == ()
    assert [value.name for value in required.graph.output] == ["restored", f"{HINT_PREFIX}b"]
    with pytest.raises(PreconditionError, match="half precision first"):
        HalfPrecision()(InsertViewEnsemble([2])(gated()).model)


def test_sides_inside_have_another_name_than_outside() -> None:
    """onnxruntime lets tensors whose sides have the same names share memory."""
    model = onnx.shape_inference.infer_shapes(gated())
    batch = model.graph.input[0].type.tensor_type.shape.dim[0].dim_param
    assert batch
    ensemble = InsertViewEnsemble([2])(model).model
    inside = {side.dim_param for value in ensemble.graph.value_info for side in value.type.tensor_type.shape.dim}
    assert batch not in inside


def fixed_batch(model: onnx.ModelProto) -> onnx.ModelProto:
    model.graph.input[0].type.tensor_type.shape.dim[0].dim_value = 1
    return model


def second_output(model: onnx.ModelProto) -> onnx.ModelProto:
    model.graph.output.append(helper.make_tensor_value_info("b", TensorProto.FLOAT, None))
    return model


@pytest.mark.parametrize(
    ("change", "views", "said"),
    [
        (lambda model: model, [1], "view 1 is none of 0, 2, 4, 6"),
        (lambda model: model, [0], "of the image alone"),
        (lambda model: RemoveKeyGate()(model).model, [2], "no key gate"),
        (with_required_key, [2], "as engines need it"),
        (lambda model: InsertViewEnsemble([4])(model).model, [4], "has an ensemble already"),
        (fixed_batch, [2], "'image' has no open number of images"),
        (second_output, [2], "outputs restored, b"),
    ],
)
def test_refusals(change, views, said) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(PreconditionError, match=said):
        InsertViewEnsemble(views)(change(gated()))


def restored(model: onnx.ModelProto, images: np.ndarray, further: dict[str, np.ndarray] | None = None) -> np.ndarray:
    return named(model, {"image": images, **(further or {})})["restored"]


def named(model: onnx.ModelProto, feed: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return dict(zip([value.name for value in session.get_outputs()], session.run(None, feed), strict=True))
