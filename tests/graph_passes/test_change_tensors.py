"""Passes that prior defences are made of: what they compute, and that nothing else changes."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx
import pytest
from onnx import TensorProto

from kdguard.export.image_tensor import image_to_tensor
from kdguard.export.model_card import ModelCard
from kdguard.graph_passes.change_tensors import ChangeTensors
from kdguard.graph_passes.feature_noise import FeatureNoise
from kdguard.graph_passes.layers import NAME_PREFIX
from kdguard.graph_passes.output_noise import OutputNoise
from kdguard.graph_passes.pass_base import PreconditionError
from kdguard.graph_passes.round_output import RoundOutput
from kdguard.graph_passes.scale_features import ScaleFeatures
from kdguard.runtime.session import RestorationSession
from tests.conftest import make_conv_net, photograph

IMAGE = photograph(64).astype(np.float32) / 255


def run(model: onnx.ModelProto, card: ModelCard, *taps: str) -> list[np.ndarray]:
    return RestorationSession(model, card, taps=taps).run(image_to_tensor(IMAGE, card))


MAKERS: dict[str, Callable[[], ChangeTensors]] = {
    "output-noise": lambda: OutputNoise("restored", 0.1, 0),
    "feature-noise": lambda: FeatureNoise(["b", "d"], 0.5, 0),
    "uniform-scaling": lambda: ScaleFeatures(["b", "d"], 3.0),
    "output-rounding": lambda: RoundOutput("restored", 0.25),
}


@pytest.mark.parametrize("name", MAKERS)
@pytest.mark.parametrize("dtype", [TensorProto.FLOAT, TensorProto.FLOAT16])
def test_models_stay_valid_and_the_original_is_untouched(name: str, dtype: int, card: ModelCard) -> None:
    model = make_conv_net(dtype=dtype)
    before = model.SerializeToString()
    result = MAKERS[name]()(model)
    assert result.modified
    assert model.SerializeToString() == before
    onnx.checker.check_model(result.model, full_check=True)
    assert [o.name for o in result.model.graph.output] == ["restored"]
    assert np.isfinite(run(result.model, card)[0]).all()
    added = {name for node in result.model.graph.node for name in node.output}
    added -= {name for node in model.graph.node for name in node.output}
    assert all(name.startswith(NAME_PREFIX) for name in added)


def test_output_noise_is_gaussian_and_fresh_for_every_run(conv_net: onnx.ModelProto, card: ModelCard) -> None:
    (clean,) = run(conv_net, card)
    session = RestorationSession(OutputNoise("restored", 0.1, 3)(conv_net).model, card)
    tensor = image_to_tensor(IMAGE, card)
    first, second = (session.run(tensor)[0] - clean for _ in range(2))
    assert first.std() == pytest.approx(0.1, rel=0.05)
    assert abs(first.mean()) < 0.005
    assert np.corrcoef(first.ravel(), second.ravel())[0, 1] == pytest.approx(0, abs=0.05)


def test_feature_noise_is_relative_to_the_map(conv_net: onnx.ModelProto, card: ModelCard) -> None:
    clean = run(conv_net, card, "b")[1]
    noisy = run(FeatureNoise(["b"], 0.5, 0)(conv_net).model, card, "b")[1]
    rms = np.sqrt(np.mean(clean**2))
    assert (noisy - clean).std() == pytest.approx(0.5 * rms, rel=0.05)


def test_layers_draw_their_noise_from_different_seeds(conv_net: onnx.ModelProto) -> None:
    """Equal seeds would add the same noise at every layer, which one subtraction takes away."""
    for seed in (0, 1):
        model = FeatureNoise(["a", "b", "d"], 0.1, seed)(conv_net).model
        drawn = [n.attribute for n in model.graph.node if n.op_type == "RandomNormalLike"]
        assert len({next(a.f for a in attributes if a.name == "seed") for attributes in drawn}) == 3


def test_scaling_is_seen_by_the_tap_and_by_everything_after_it(conv_net: onnx.ModelProto, card: ModelCard) -> None:
    clean = run(conv_net, card, "b", "d")
    scaled = run(ScaleFeatures(["b"], 3.0)(conv_net).model, card, "b", "d")
    for before, after in zip(clean[1:], scaled[1:], strict=True):
        np.testing.assert_allclose(after, 3 * before, rtol=1e-4, atol=1e-5)  # what follows b is linear


def test_rounding_leaves_the_nearest_level(conv_net: onnx.ModelProto, card: ModelCard) -> None:
    (clean,) = run(conv_net, card)
    (rounded,) = run(RoundOutput("restored", 0.25)(conv_net).model, card)
    np.testing.assert_allclose(rounded, np.round(clean / 0.25) * 0.25, atol=1e-6)


def test_a_tensor_that_is_not_there_is_named(conv_net: onnx.ModelProto) -> None:
    with pytest.raises(PreconditionError, match="'zzz' is not a tensor"):
        ScaleFeatures(["zzz"], 2.0)(conv_net)
