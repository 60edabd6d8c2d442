from __future__ import annotations

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper

from kdguard.export.errors import UserError
from kdguard.runtime.torch_graph import GraphModule, write_back
from tests import awkward_graphs
from tests.conftest import make_conv_net, make_model, run_onnx
from tests.runtime.torch_graph.agreement import relative_error, values

IMAGE = values(1, 3, 12, 10)


def names(model: onnx.ModelProto) -> set[str]:
    return {name for name, _ in GraphModule(model).named_weights()}


def after_a_step(model: onnx.ModelProto) -> GraphModule:
    module = GraphModule(model)
    optimiser = torch.optim.Adam(module.parameters(), lr=1e-2)
    module(torch.from_numpy(IMAGE))[0].square().mean().backward()
    optimiser.step()
    return module


def mixed() -> onnx.ModelProto:
    """Weights in initializers and Constant nodes, directly and transposed, beside constants that are none."""
    constant = numpy_helper.from_array(values(8, 3, 1, 1), "")
    nodes = [
        helper.make_node("Constant", [], ["in.constant"], value=constant),
        helper.make_node("Constant", [], ["slope"], value_floats=[0.25]),
        helper.make_node("Constant", [], ["half"], value_float=0.5),
        helper.make_node("Conv", ["image", "in.constant"], ["a"]),
        helper.make_node("BatchNormalization", ["a", "scale", "bias", "mean", "variance"], ["n"]),
        helper.make_node("PRelu", ["n", "slope"], ["p"]),
        helper.make_node("Mul", ["p", "half"], ["q"]),
        helper.make_node("Transpose", ["q"], ["tokens"], perm=[0, 2, 3, 1]),
        helper.make_node("Transpose", ["projection"], ["turned"], perm=[1, 0]),
        helper.make_node("MatMul", ["tokens", "turned"], ["m"]),
        helper.make_node("Add", ["m", "layer.bias"], ["biased"]),
        helper.make_node("Clip", ["biased", "low"], ["clipped"]),
        helper.make_node("Transpose", ["clipped"], ["restored"], perm=[0, 3, 1, 2]),
    ]
    weights = {
        "scale": values(8, seed=1),
        "bias": values(8, seed=2),
        "mean": values(8, seed=3),
        "variance": np.abs(values(8, seed=4)) + 1,
        "projection": values(3, 8, seed=5),
        "layer.bias": values(3, seed=6),
        "low": np.array(-5, np.float32),
    }
    return make_model(nodes, weights)


def test_what_is_a_weight() -> None:
    assert names(make_conv_net()) == {"wa", "wc", "wt"}
    assert names(mixed()) == {"in.constant", "slope", "scale", "bias", "projection", "layer.bias"}
    assert names(awkward_graphs.attention()) == {"wa", "wt"}  # its temperature has no axis
    assert names(awkward_graphs.shared_weight()) == {"wa", "wc", "wt"}


@pytest.mark.parametrize("build", [make_conv_net, mixed, awkward_graphs.shared_weight, awkward_graphs.prelu])
def test_round_trip(build) -> None:
    model = build()
    module = after_a_step(model)
    written = write_back(model, module)
    onnx.checker.check_model(written)
    got = run_onnx(written, image=IMAGE)[0]
    assert relative_error(module(torch.from_numpy(IMAGE))[0].detach().numpy(), got) < 1e-5
    assert relative_error(got, run_onnx(model, image=IMAGE)[0]) > 1e-3


def test_nothing_else_changes() -> None:
    model = mixed()
    before = model.SerializeToString(deterministic=True)
    trained = write_back(model, after_a_step(model))
    assert model.SerializeToString(deterministic=True) == before
    kept = {t.name: t for t in model.graph.initializer}
    changed = {t.name for t in trained.graph.initializer if t != kept[t.name]}
    assert changed == {"scale", "bias", "projection", "layer.bias"}
    untrained = write_back(model, GraphModule(model))
    assert untrained.SerializeToString(deterministic=True) == before


def test_weights_outside_raw_data_are_replaced() -> None:
    model = make_conv_net()
    tensor = model.graph.initializer[0]
    tensor.CopyFrom(helper.make_tensor("wa", TensorProto.FLOAT, tensor.dims, values(8, 3, 3, 3).ravel()))
    assert tensor.float_data
    written = write_back(model, after_a_step(model))
    assert not written.graph.initializer[0].float_data
    assert not np.array_equal(numpy_helper.to_array(written.graph.initializer[0]), numpy_helper.to_array(tensor))


def test_half_precision_stays_what_it_was_in_the_file() -> None:
    model = make_conv_net(dtype=TensorProto.FLOAT16)
    module = after_a_step(model)
    written = write_back(model, module)
    assert {tensor.data_type for tensor in written.graph.initializer} == {TensorProto.FLOAT16}
    got = run_onnx(written, image=IMAGE.astype(np.float16))[0]
    assert relative_error(module(torch.from_numpy(IMAGE))[0].detach().numpy(), got) < 1e-2


def test_a_weight_that_is_stored_as_bfloat16() -> None:
    model = make_conv_net()
    stored = model.graph.initializer[0]
    stored.CopyFrom(helper.make_tensor("stored", TensorProto.BFLOAT16, stored.dims, values(8, 3, 3, 3).ravel()))
    model.graph.node.insert(0, helper.make_node("Cast", ["stored"], ["wa"], "widen", to=TensorProto.FLOAT))
    module = after_a_step(model)
    written = write_back(model, module)
    assert written.graph.initializer[0].data_type == TensorProto.BFLOAT16
    got = run_onnx(written, image=IMAGE)[0]
    assert relative_error(module(torch.from_numpy(IMAGE))[0].detach().numpy(), got) < 2e-2
    assert relative_error(got, run_onnx(model, image=IMAGE)[0]) > 2e-2


def test_another_model_is_refused() -> None:
    module = GraphModule(make_conv_net())
    with pytest.raises(UserError, match="weight 'wa' is not in the model"):
        write_back(mixed(), module)
    with pytest.raises(UserError, match=r"'wa' has shape \[8, 3, 3, 3\] in the module and \[4, 3, 3, 3\]"):
        write_back(make_conv_net(width=4), module)
