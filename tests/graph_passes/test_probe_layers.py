"""The probe: nothing at strength 0, and what the insertion pass would do at any other."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx
import pytest

from kdguard.graph_passes.insert_svd_perturb import InsertSvdPerturb
from kdguard.graph_passes.op import SvdPerturbAttributes
from kdguard.graph_passes.probe_layers import STRENGTHS, ProbeLayers
from tests.conftest import make_conv_net, photograph, run_onnx
from tests.graph_passes.rich_model import make_rich_model

LAYERS = ["d", "b", "c"]
"""Not in graph order: the order of the strengths is that of the list."""
PROBE = SvdPerturbAttributes(rank=2, gain=3.0)
IMAGE = (photograph(40).transpose(2, 0, 1)[None] / 255).astype(np.float32)
BUILDERS = pytest.mark.parametrize("build", [make_conv_net, make_rich_model])


def run_probe(model: onnx.ModelProto, *strengths: float) -> np.ndarray:
    values = {STRENGTHS: np.array(strengths, np.float32)}
    return run_onnx(ProbeLayers(dict.fromkeys(LAYERS, PROBE))(model).model, image=IMAGE, **values)[0]


@BUILDERS
def test_zeros_leave_every_bit(build: Callable[[], onnx.ModelProto]) -> None:
    np.testing.assert_array_equal(run_probe(build(), 0, 0, 0), run_onnx(build(), image=IMAGE)[0])


@BUILDERS
@pytest.mark.parametrize("index", range(len(LAYERS)))
def test_one_layer_at_a_time_is_an_in_path_node(build: Callable[[], onnx.ModelProto], index: int) -> None:
    """Strength s of gain h is gain 1 + s (h - 1)."""
    strengths = np.eye(len(LAYERS))[index] * 0.25
    gain = SvdPerturbAttributes(rank=2, gain=1.5)
    single = InsertSvdPerturb([LAYERS[index]], gain, placement="in-path")(build()).model
    expected, clean = run_onnx(single, image=IMAGE)[0], run_onnx(build(), image=IMAGE)[0]
    assert np.abs(expected - clean).max() > 1e-3
    np.testing.assert_allclose(run_probe(build(), *strengths), expected, atol=1e-5)


def test_several_layers_at_once() -> None:
    model = make_conv_net()
    both = InsertSvdPerturb(["[bd]"], PROBE, placement="in-path")(model).model
    np.testing.assert_allclose(run_probe(model, 1, 1, 0), run_onnx(both, image=IMAGE)[0], atol=1e-5)


def test_every_layer_has_its_own_op() -> None:
    other = SvdPerturbAttributes(rank=1, gain=0.5)
    probe = ProbeLayers({"b": PROBE, "d": other})(make_conv_net()).model
    output = run_onnx(probe, image=IMAGE, **{STRENGTHS: np.array([0, 1], np.float32)})[0]
    expected = InsertSvdPerturb(["d"], other, placement="in-path")(make_conv_net()).model
    np.testing.assert_allclose(output, run_onnx(expected, image=IMAGE)[0], atol=1e-5)


def test_the_given_model_is_untouched() -> None:
    model = make_rich_model()
    before = model.SerializeToString(deterministic=True)
    assert ProbeLayers(dict.fromkeys(LAYERS, PROBE))(model).modified
    assert model.SerializeToString(deterministic=True) == before
