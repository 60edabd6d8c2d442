"""The kernels for onnxruntime's CUDA provider, registered for its CPU provider and run there thread by thread."""

from __future__ import annotations

import numpy as np
import onnxruntime
import pytest
from onnx import TensorProto, helper

from kdguard.graph_passes.op import DOMAIN, VERSION, SvdPerturbAttributes
from kdguard.graph_passes.op.reference import svd_perturb
from kdguard.runtime.gpu_check.subjects import exact_projector, feature_maps, gram_with_gap, projector, worst
from kdguard.runtime.native import obstacle, register
from tests.runtime.kernels.kernels_on_cpu import KernelsOnCpu
from tests.runtime.test_native import ALL, CPU, CUDA, HARDENED, op_session

SHAPE = (2, 17, 9, 11)


def session_of(
    node: object, inputs: dict[str, int], output: str, kernels: KernelsOnCpu
) -> onnxruntime.InferenceSession:
    """One node of ours between these inputs, of the number of axes given, and a float output."""
    ins = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [None] * rank) for name, rank in inputs.items()]
    graph = helper.make_graph([node], "op", ins, [helper.make_tensor_value_info(output, TensorProto.FLOAT, None)])
    opsets = [helper.make_opsetid("", 18), helper.make_opsetid(DOMAIN, VERSION)]
    options = onnxruntime.SessionOptions()
    options.register_custom_ops_library(str(kernels.path))
    model = helper.make_model(graph, opset_imports=opsets, ir_version=10)
    return onnxruntime.InferenceSession(model.SerializeToString(), options, providers=[CPU])


@pytest.mark.parametrize("variant", ALL)
def test_does_what_the_reference_does(kernels: KernelsOnCpu, variant: str) -> None:
    attributes = SvdPerturbAttributes(**{"rank": 4, "gain": 10.0, **ALL[variant]})
    maps = feature_maps(SHAPE)
    session = op_session(attributes, TensorProto.FLOAT, 4, kernels.path)
    for _ in range(2):  # the second run finds the pattern on the device already
        found, other = session.run(None, {"X": maps})
        assert worst(found, svd_perturb(maps, attributes), SHAPE) < 1e-5
    if attributes.shared:
        assert np.abs(other - maps).max() < 2e-6 * np.abs(found).max()
    else:
        assert other.tolist() == [0.0]


def test_half_precision_can_be_undone_exactly(kernels: KernelsOnCpu) -> None:
    attributes = SvdPerturbAttributes(rank=4, gain=10.0, centred=True)
    maps = feature_maps(SHAPE, np.float16)
    found, restored = op_session(attributes, TensorProto.FLOAT16, 4, kernels.path).run(None, {"X": maps})
    assert worst(found, svd_perturb(maps, attributes), SHAPE) < 2e-3
    assert np.array_equal(restored, maps)


def test_strength_is_an_input(kernels: KernelsOnCpu) -> None:
    attributes = SvdPerturbAttributes(rank=2, gain=5.0)
    node = helper.make_node("SvdPerturb", ["X", "s"], ["Y"], domain=DOMAIN, **attributes.node_attributes())
    session = session_of(node, {"X": 4, "s": 0}, "Y", kernels)
    maps = feature_maps(SHAPE)
    for strength in (0.0, 0.25, 7.0):
        found = session.run(None, {"X": maps, "s": np.array(strength, np.float32)})[0]
        assert worst(found, svd_perturb(maps, attributes, strength), SHAPE) < 1e-5


def test_the_projector_alone(kernels: KernelsOnCpu) -> None:
    node = helper.make_node("TopKProjector", ["G"], ["U"], domain=DOMAIN, rank=3)
    gram = np.concatenate([gram_with_gap(20, 3, 0.1, seed) for seed in range(2)])
    found = session_of(node, {"G": 3}, "U", kernels).run(None, {"G": gram})[0]
    assert np.abs(projector(found) - exact_projector(gram, 3)).max() < 1e-5


def test_what_it_refuses(kernels: KernelsOnCpu) -> None:
    session = op_session(SvdPerturbAttributes(), TensorProto.FLOAT, 3, kernels.path)
    with pytest.raises(Exception, match="513 channels and rank 4 are beyond what the native kernels take"):
        session.run(None, {"X": np.zeros((1, 513, 2), np.float32)})
    empty = np.zeros((0, 4, 3), np.float32)
    assert session.run(None, {"X": empty})[0].shape == empty.shape


def test_covers_cuda_where_its_kernels_run(kernels: KernelsOnCpu) -> None:
    assert obstacle(HARDENED, CUDA, kernels.path) == ""
    assert register(onnxruntime.SessionOptions(), HARDENED, CUDA, library=kernels.path) == "native"
