from __future__ import annotations

import copy
import weakref
from collections.abc import Callable

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto

from kdguard.export.errors import UserError
from kdguard.runtime.session import expose_taps
from kdguard.runtime.torch_graph import GraphModule
from kdguard.runtime.torch_graph.node import Operator
from tests import awkward_graphs
from tests.conftest import make_conv_net, photograph, run_onnx
from tests.foreign_models import nhwc_net, with_noise_level
from tests.runtime.torch_graph.agreement import compare, relative_error, values

IMAGE = photograph(24).transpose(2, 0, 1)[None].astype(np.float32) / 255


def test_output_and_taps(conv_net: onnx.ModelProto) -> None:
    expected = run_onnx(expose_taps(conv_net, ["d", "b"]), image=IMAGE)
    outputs = GraphModule(conv_net)(torch.from_numpy(IMAGE), taps=["d", "b"])
    for output, from_onnxruntime in zip(outputs, expected, strict=True):
        assert relative_error(output.detach().numpy(), from_onnxruntime) <= 1e-5


@pytest.mark.parametrize(
    "build",
    [
        awkward_graphs.prelu,
        awkward_graphs.instance_norm,
        awkward_graphs.attention,
        awkward_graphs.many_readers,
        awkward_graphs.shared_weight,
        awkward_graphs.contrib_operator,
        lambda: awkward_graphs.fourier(17),
        lambda: awkward_graphs.fourier(20),
        nhwc_net,
    ],
)
def test_awkward_graphs(build: Callable[[], onnx.ModelProto]) -> None:
    model = build()
    rows_last = model.graph.input[0].type.tensor_type.shape.dim[-1].dim_value == 3
    compare(model, np.ascontiguousarray(IMAGE.transpose(0, 2, 3, 1)) if rows_last else IMAGE)


def test_half_precision_is_computed_in_single() -> None:
    model = make_conv_net(dtype=TensorProto.FLOAT16)
    expected = run_onnx(model, image=IMAGE.astype(np.float16))[0]
    module = GraphModule(model)
    (restored,) = module(torch.from_numpy(IMAGE))
    assert restored.dtype == torch.float32
    assert {weight.dtype for weight in module.parameters()} == {torch.float32}
    assert np.abs(restored.detach().numpy() - expected.astype(np.float32)).max() < 5e-3


def test_further_inputs() -> None:
    model = with_noise_level(make_conv_net(), [1])
    module, image = GraphModule(model), torch.from_numpy(IMAGE)
    (restored,) = module(image, {"level": torch.tensor([0.25])})
    expected = run_onnx(model, image=IMAGE, level=np.array([0.25], np.float32))[0]
    assert relative_error(restored.detach().numpy(), expected) < 1e-5
    with pytest.raises(UserError, match=r"needs the further inputs \['level'\]"):
        module(image)
    with pytest.raises(UserError, match=r"no inputs \['sigma'\]; it has \['level'\]"):
        module(image, {"level": torch.tensor([0.25]), "sigma": image})


def test_another_output_needs_only_its_own_nodes(conv_net: onnx.ModelProto) -> None:
    conv_net.graph.output.append(onnx.ValueInfoProto(name="b"))
    module = GraphModule(conv_net, output_name="b")
    (feature_map,) = module(torch.from_numpy(IMAGE))
    assert feature_map.shape[1] == 8
    feature_map.sum().backward()
    assert {name for name, weight in module.named_weights() if weight.grad is not None} == {"wa"}
    with pytest.raises(UserError, match="no output 'c'"):
        GraphModule(conv_net, output_name="c")


def test_the_image_need_not_be_the_first_input() -> None:
    model = with_noise_level(make_conv_net(), [1])
    swapped = [model.graph.input[1], model.graph.input[0]]
    del model.graph.input[:]
    model.graph.input.extend(swapped)
    module = GraphModule(model, input_name="image")
    (restored,) = module(torch.from_numpy(IMAGE), {"level": torch.tensor([1.0])})
    assert restored.shape == IMAGE.shape
    with pytest.raises(UserError, match=r"no input 'picture'; it has \['level', 'image'\]"):
        GraphModule(model, input_name="picture")


def test_unknown_tap(conv_net: onnx.ModelProto) -> None:
    with pytest.raises(UserError, match="tap 'nowhere'"):
        GraphModule(conv_net)(torch.from_numpy(IMAGE), taps=["nowhere"])


def test_a_size_that_the_model_does_not_take() -> None:
    with pytest.raises(UserError, match=r"operator Conv \(node 'conv_a'\) fails on an image of shape \[1, 2, 8, 8\]"):
        GraphModule(make_conv_net())(torch.zeros(1, 2, 8, 8))


def test_tensors_are_dropped_after_their_last_reader(conv_net: onnx.ModelProto) -> None:
    made: list[weakref.ref[torch.Tensor]] = []
    alive: list[int] = []
    module = GraphModule(conv_net)

    def watched(run: Operator) -> Operator:
        def observed(*given: object) -> torch.Tensor:
            result = run(*given)
            made.append(weakref.ref(result))
            alive.append(sum(tensor() is not None for tensor in made))
            return result

        return observed

    module._steps = [step._replace(run=watched(step.run)) for step in module._steps]
    with torch.no_grad():
        module(torch.from_numpy(IMAGE))
    assert len(alive) == 6
    assert max(alive) == 3  # b, c and their sum d
    assert alive[-1] == 2  # the tail and the output


def test_training_lowers_the_loss(conv_net: onnx.ModelProto) -> None:
    torch.manual_seed(0)
    module, image = GraphModule(conv_net), torch.from_numpy(IMAGE)
    degraded = image + 0.1 * torch.randn_like(image)
    optimiser = torch.optim.Adam(module.parameters(), lr=1e-3)
    losses = []
    for _ in range(8):
        loss = (module(degraded)[0] - image).square().mean()
        optimiser.zero_grad()
        loss.backward()
        assert all(weight.grad is not None and weight.grad.abs().max() > 0 for weight in module.parameters())
        optimiser.step()
        losses.append(loss.item())
    assert losses[-1] < 0.95 * losses[0]


def test_a_copy_and_a_state_dict_stand_for_themselves(conv_net: onnx.ModelProto) -> None:
    module, image = GraphModule(conv_net), torch.from_numpy(IMAGE)
    before = module(image)[0].detach()
    other = copy.deepcopy(module)
    with torch.no_grad():
        for weight in other.parameters():
            weight.mul_(2)
    assert torch.equal(module(image)[0], before)
    other.load_state_dict(module.state_dict())
    assert torch.equal(other(image)[0], before)


def test_gradients_are_those_of_finite_differences() -> None:
    model = awkward_graphs.attention()
    module = GraphModule(model).double()
    image = torch.from_numpy(values(1, 3, 3, 4)).double().requires_grad_()
    assert torch.autograd.gradcheck(lambda x: module(x)[0], image)
