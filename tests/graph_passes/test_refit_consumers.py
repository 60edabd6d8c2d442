"""Which maps only convolutions read, and giving those convolutions weights of their own."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from kdguard.export import large_models
from kdguard.export.onnx_files import load_onnx
from kdguard.graph_passes.pass_base import PreconditionError
from kdguard.graph_passes.refit_consumers import ConvReader, RefitConsumers, conv_readers, refitted_outputs
from tests.awkward_graphs import around, shared_weight
from tests.conftest import conv_weights, make_conv_net, make_model, photograph, run_onnx
from tests.graph_passes.rich_model import make_rich_model

WIDTH = 8
PADS = {"pads": [1, 1, 1, 1]}
IMAGE = (photograph(40).transpose(2, 0, 1)[None] / 255).astype(np.float32)


def reading(*readers: onnx.NodeProto, **weights: np.ndarray) -> onnx.ModelProto:
    """Relu b, then nodes that read it; the first one's output becomes m."""
    return around(readers, {"w": conv_weights(3, WIDTH, WIDTH), **weights})


def conv(output: str = "m", weight: str = "w", source: str = "b", **attributes: object) -> onnx.NodeProto:
    padding = {} if "auto_pad" in attributes else PADS
    return helper.make_node("Conv", [source, weight], [output], **(padding | attributes))


def doubled(readers: list[ConvReader]) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    return {reader.output: (2 * reader.weight, reader.bias + 1) for reader in readers}


def initializers(model: onnx.ModelProto) -> dict[str, np.ndarray]:
    return {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}


def test_geometry_is_read_from_the_node() -> None:
    weight, bias = conv_weights(3, 6, WIDTH // 2), np.arange(6, dtype=np.float32)
    node = helper.make_node(
        "Conv", ["b", "w", "bias"], ["m"], group=2, strides=[2, 1], dilations=[1, 2], pads=[0, 1, 2, 3]
    )
    (reader,) = conv_readers(reading(node, w=weight, bias=bias), "b") or []
    assert (reader.output, reader.group) == ("m", 2)
    assert (reader.strides, reader.dilations, reader.pads) == ((2, 1), (1, 2), (0, 1, 2, 3))
    np.testing.assert_array_equal(reader.weight, weight)
    np.testing.assert_array_equal(reader.bias, bias)


def test_what_a_node_does_not_say_has_the_defaults_of_onnx() -> None:
    (reader,) = conv_readers(reading(helper.make_node("Conv", ["b", "w"], ["m"])), "b") or []
    assert (reader.strides, reader.dilations, reader.pads, reader.group) == ((1, 1), (1, 1), (0, 0, 0, 0), 1)
    np.testing.assert_array_equal(reader.bias, np.zeros(WIDTH))
    (valid,) = conv_readers(reading(conv(auto_pad="VALID")), "b") or []
    assert valid.pads == (0, 0, 0, 0)


def test_constant_nodes_are_constant_weights() -> None:
    constant = helper.make_node("Constant", [], ["k"], value=numpy_helper.from_array(conv_weights(4, WIDTH, WIDTH)))
    model = reading(constant, conv(weight="k"))
    readers = conv_readers(model, "b")
    assert readers
    result = RefitConsumers(doubled(readers))(model).model
    fresh = conv_readers(result, "b")
    assert fresh
    np.testing.assert_allclose(fresh[0].weight, 2 * conv_weights(4, WIDTH, WIDTH), rtol=1e-6)


def with_input(model: onnx.ModelProto, name: str) -> onnx.ModelProto:
    """The weight may be overridden by the caller: it is an input with a default."""
    model.graph.input.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, [WIDTH, WIDTH, 3, 3]))
    return model


def with_output(model: onnx.ModelProto, name: str) -> onnx.ModelProto:
    model.graph.output.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n", WIDTH, "h", "w"]))
    return model


def bias_map() -> onnx.ModelProto:
    """The map's own mean is the convolution's bias."""
    axes = np.array([0, 2, 3])
    mean = helper.make_node("ReduceMean", ["b", "axes"], ["mean"], keepdims=0)
    return reading(mean, helper.make_node("Conv", ["b", "w", "mean"], ["m"], **PADS), axes=axes)


def foreign_conv() -> onnx.ModelProto:
    model = reading(helper.make_node("Conv", ["b", "w"], ["m"], domain="acme.vision"))
    model.opset_import.append(helper.make_opsetid("acme.vision", 1))
    return model


CANNOT: dict[str, tuple[Callable[[], onnx.ModelProto], str]] = {
    "an addition reads it as well": (make_conv_net, "b"),
    "an If body reads it as well": (make_rich_model, "b"),
    "a Loop body alone reads it": (make_rich_model, "d"),
    "it is an output": (lambda: with_output(make_conv_net(), "d"), "d"),
    "its weight is an input": (lambda: with_input(reading(conv()), "w"), "b"),
    "the bias is computed from it": (bias_map, "b"),
    "padding depends on the size": (lambda: reading(conv(auto_pad="SAME_UPPER")), "b"),
    "nobody reads it": (make_conv_net, "restored"),
    "there is no such tensor": (make_conv_net, "zzz"),
    "the reader is somebody else's Conv": (foreign_conv, "b"),
}


@pytest.mark.parametrize("why", CANNOT)
def test_maps_that_cannot_be_compensated(why: str) -> None:
    build, layer = CANNOT[why]
    assert conv_readers(build(), layer) is None


def test_the_map_as_its_own_weight_is_none() -> None:
    nodes = [helper.make_node("Conv", ["image", "image"], ["restored"])]
    assert conv_readers(make_model(nodes, {}), "image") is None


def test_weights_in_a_data_file_are_left_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(large_models, "INLINE_LIMIT", 5000)
    monkeypatch.setattr(large_models, "SMALL_TENSOR", 4000)
    path = tmp_path / "t.onnx"
    onnx.save_model(make_conv_net(16), str(path), save_as_external_data=True, location="w.bin", size_threshold=0)
    model = load_onnx(path)
    assert large_models.is_large(model)
    assert conv_readers(model, "b") is None
    assert conv_readers(model, "d") is not None  # the tail is small enough to be held


def test_two_readers_get_their_own_weights_and_others_keep_the_shared_one() -> None:
    """b is read twice through one weight, which a third convolution uses further on."""
    model = around(
        [
            conv("c1", "wc"),
            conv("c2", "wc", pads=[2, 2, 2, 2], dilations=[2, 2]),
            helper.make_node("Add", ["c1", "c2"], ["s"]),
            conv("m", "wc", "s"),
        ],
        {"wc": conv_weights(1, WIDTH, WIDTH)},
    )
    readers = conv_readers(model, "b")
    assert readers
    assert [reader.output for reader in readers] == ["c1", "c2"]
    assert readers[0].geometry != readers[1].geometry
    new = {"c1": (readers[0].weight * 3, readers[0].bias), "c2": (readers[1].weight * 0, readers[1].bias + 2)}
    result = RefitConsumers(new)(model)
    assert result.modified
    weights = initializers(result.model)
    np.testing.assert_array_equal(weights["wc"], conv_weights(1, WIDTH, WIDTH))
    nodes = {node.output[0]: node for node in result.model.graph.node}
    assert nodes["m"].input[1] == "wc"
    np.testing.assert_allclose(weights[nodes["c1"].input[1]], 3 * conv_weights(1, WIDTH, WIDTH), rtol=1e-6)
    np.testing.assert_array_equal(weights[nodes["c2"].input[2]], np.full(WIDTH, 2, np.float32))


def test_running_it_gives_what_the_weights_say() -> None:
    model = shared_weight()
    readers = conv_readers(model, "b")
    assert readers
    result = RefitConsumers(doubled(readers))(model).model
    expose = [helper.make_tensor_value_info("c", TensorProto.FLOAT, None)]
    for entry in (model, result):
        entry.graph.output.extend(expose)
    clean, refitted = (run_onnx(entry, image=IMAGE)[1] for entry in (model, result))
    np.testing.assert_allclose(refitted, 2 * clean + 1, rtol=1e-4, atol=1e-4)


def test_half_precision_weights_stay_half() -> None:
    model = make_conv_net(dtype=TensorProto.FLOAT16)
    readers = conv_readers(model, "d")
    assert readers
    assert readers[0].weight.dtype == np.float64
    result = RefitConsumers(doubled(readers))(model).model
    tail = next(node for node in result.graph.node if node.output[0] == "tail")
    kinds = {tensor.name: tensor.data_type for tensor in result.graph.initializer}
    assert [kinds[name] for name in tail.input[1:]] == [TensorProto.FLOAT16] * 2
    assert np.isfinite(run_onnx(result, image=IMAGE.astype(np.float16))[0]).all()


def test_only_replaced_weights_are_removed() -> None:
    """An initializer that nobody reads, or that is an input's default, is none of our business."""
    model = with_input(make_conv_net(), "override")
    for name in ("spare", "override"):
        model.graph.initializer.append(numpy_helper.from_array(conv_weights(5, WIDTH, WIDTH), name))
    readers = conv_readers(model, "d")
    assert readers
    result = RefitConsumers(doubled(readers))(model).model
    assert initializers(result).keys() - initializers(model).keys() == {"wt_tail", "wt_tail_bias"}
    assert initializers(model).keys() - initializers(result).keys() == {"wt"}
    assert run_onnx(result, image=IMAGE)[0].shape == IMAGE.shape


def test_new_names_avoid_those_that_are_taken() -> None:
    model = make_conv_net()
    model.graph.initializer.append(numpy_helper.from_array(np.zeros(3, np.float32), "wt_tail"))
    result = RefitConsumers(doubled(conv_readers(model, "d") or []))(model).model
    assert {"wt_tail", "wt_tail_1"} <= initializers(result).keys()
    np.testing.assert_array_equal(initializers(result)["wt_tail"], np.zeros(3))


@pytest.mark.parametrize("build", [make_conv_net, make_rich_model])
def test_nothing_to_do_and_the_given_model_is_untouched(build: Callable[[], onnx.ModelProto]) -> None:
    model = build()
    result = RefitConsumers({})(model)
    assert not result.modified
    assert result.model is model
    before = model.SerializeToString(deterministic=True)
    layer = "d" if build is make_conv_net else "f"
    readers = conv_readers(model, layer)
    assert readers
    refitted = RefitConsumers(doubled(readers))(model).model
    assert model.SerializeToString(deterministic=True) == before
    again = RefitConsumers(doubled(readers))(refitted).model
    np.testing.assert_array_equal(run_onnx(again, image=IMAGE)[0], run_onnx(refitted, image=IMAGE)[0])


def test_only_convolutions_can_be_refitted() -> None:
    for name in ("b", "zzz"):
        with pytest.raises(PreconditionError, match=f"'{name}' is not the output of a convolution"):
            RefitConsumers({name: (np.zeros((8, 8, 3, 3)), np.zeros(8))})(make_conv_net())


def test_refitted_convolutions_are_told_by_their_weights() -> None:
    model = make_conv_net()
    assert refitted_outputs(model) == set()
    once = RefitConsumers(doubled(conv_readers(model, "d") or []))(model).model
    assert refitted_outputs(once) == {"tail"}
    assert refitted_outputs(RefitConsumers(doubled(conv_readers(once, "d") or []))(once).model) == {"tail"}
    model.graph.initializer.append(numpy_helper.from_array(np.zeros(3, np.float32), "wt_tail"))
    assert refitted_outputs(RefitConsumers(doubled(conv_readers(model, "d") or []))(model).model) == {"tail"}
    # Somebody's own weight of such a name, without the bias that comes with it, is none.
    once.graph.node[-2].input[2] = "bias"
    assert refitted_outputs(once) == set()
