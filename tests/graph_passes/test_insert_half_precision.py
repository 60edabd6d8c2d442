"""The insertion pass on models with 16-bit maps: restoring leaves no trace."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from kdguard.graph_passes.insert_svd_perturb import InsertSvdPerturb
from kdguard.graph_passes.op import DOMAIN, SvdPerturbAttributes, op_functions
from kdguard.runtime.session import expose_taps
from tests.conftest import make_conv_net, run_onnx
from tests.graph_passes.test_insert_svd_perturb import GAIN, IMAGE, KEY, psnr


def rounding_conv_net() -> onnx.ModelProto:
    """The convolutional net with fp16 maps between fp32 operators, each rounding written out.

    An fp16 net would not do: onnxruntime's CPU provider drops roundings between fp16 operators, so that
    there even an output more changes the others.
    """
    model = make_conv_net()
    nodes = list(model.graph.node)
    del model.graph.node[:]
    for node in nodes:
        node.input[:] = [f"{name}/wide" if name in ("a", "b", "c", "d", "tail") else name for name in node.input]
        (name,) = node.output
        if name == "restored":
            model.graph.node.append(node)
        else:
            node.output[0] = f"{name}/raw"
            model.graph.node.append(node)
            model.graph.node.append(helper.make_node("Cast", [f"{name}/raw"], [name], to=TensorProto.FLOAT16))
            model.graph.node.append(helper.make_node("Cast", [name], [f"{name}/wide"], to=TensorProto.FLOAT))
    return model


@pytest.mark.parametrize("gain", [10.0, 100.0])
@pytest.mark.parametrize("extra", [{}, {"modulation": 2, "pattern": KEY, "centred": True}, {"coherence": 3.0}])
def test_half_precision_maps_are_restored_bit_for_bit(gain: float, extra: dict[str, object]) -> None:
    model = rounding_conv_net()
    attributes = SvdPerturbAttributes(rank=2, gain=gain, **extra)  # type: ignore[arg-type]
    hardened = InsertSvdPerturb(["b", "c", "d"], attributes)(model).model
    assert [f for f in hardened.functions if f.domain == DOMAIN] == op_functions(18, exact_change=True)
    clean, output = (run_onnx(expose_taps(m, ("b", "c", "d")), image=IMAGE) for m in (model, hardened))
    np.testing.assert_array_equal(output[0], clean[0])
    for moved, still in zip(output[1:], clean[1:], strict=True):
        assert np.linalg.norm((moved - still).astype(np.float32)) > np.linalg.norm(still.astype(np.float32))


def test_a_half_precision_net() -> None:
    model = make_conv_net(dtype=TensorProto.FLOAT16)
    hardened = InsertSvdPerturb(["b", "d"], GAIN)(model).model
    image = IMAGE.astype(np.float16)
    clean, output = (run_onnx(expose_taps(m, ("b", "d")), image=image) for m in (model, hardened))
    assert output[0].dtype == np.float16
    assert psnr(output[0], clean[0]) > 90  # the last rounding alone leaves 80
    assert np.mean(output[1] == clean[1]) < 0.6  # zeros of the Relu may stay
