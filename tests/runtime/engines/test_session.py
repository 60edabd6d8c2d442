"""Engines as sessions: what they answer, and what they refuse."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from kdguard.export.errors import MissingDependencyError, UserError
from kdguard.export.model_card import ModelCard
from kdguard.runtime.engines.manifest import manifest_path
from kdguard.runtime.engines.session import Engine, EngineSession, load_engine
from kdguard.runtime.gpu import compute_capability
from kdguard.runtime.session import RestorationSession
from kdguard.runtime.shipped import card_of, hash_shipped, layers_of, load_shipped, start
from tests.conftest import make_conv_net, photograph
from tests.graph_passes.test_write_out_functions import hardened
from tests.runtime.engines.engine_files import onnxruntime_answers, write_engine

__all__ = ["onnxruntime_answers"]
CARD = ModelCard(task="deraining", input_name="image", output_name="restored", size_multiple=8)
IMAGE = photograph(37).astype(np.float32) / 255


@pytest.fixture
def engine(tmp_path: Path) -> Engine:
    return load_engine(write_engine(hardened(make_conv_net()), CARD, tmp_path / "shipped.plan"))


@pytest.mark.usefixtures("onnxruntime_answers")
def test_it_restores_like_the_model(engine: Engine) -> None:
    session = EngineSession(engine, CARD)
    expected = RestorationSession(hardened(make_conv_net()), CARD, kernels="function").restore(IMAGE)
    np.testing.assert_array_equal(session.restore(IMAGE), expected)
    assert (session.provider, session.kernels, session.taps, session.large) == (
        "TensorRT-RTX 1.0",
        "function",
        (),
        False,
    )


@pytest.mark.usefixtures("onnxruntime_answers")
@pytest.mark.parametrize("side", [12, 264])
def test_sizes_that_it_was_not_built_for(engine: Engine, side: int) -> None:
    with pytest.raises(UserError, match=r"takes images of .* build it with other --shapes"):
        EngineSession(engine, CARD.model_copy(update={"size_multiple": 1})).restore(np.zeros((side, 32, 3), np.float32))


def test_what_runs_here_is_said_before_anything_is_loaded(engine: Engine) -> None:
    with pytest.raises(MissingDependencyError, match="runs on a GPU only"):
        EngineSession(engine, CARD, provider="cpu")
    if compute_capability() is None:
        pytest.importorskip("tensorrt_rtx")
        with pytest.raises(MissingDependencyError, match=r"engines run on an NVIDIA GPU, and this machine has none"):
            EngineSession(engine, CARD)


def test_either_kind_of_file(engine: Engine, conv_net_file: Path) -> None:
    shipped = load_shipped(engine.path)
    assert shipped == engine
    assert (card_of(shipped), layers_of(shipped)) == (CARD, ["b", "d"])
    assert hash_shipped(shipped) == engine.manifest.engine_sha256
    with pytest.raises(UserError, match="hands out its outputs and no inner tensors"):
        start(shipped, CARD, taps=["b"])
    model = load_shipped(conv_net_file)
    assert layers_of(model) == []
    assert isinstance(start(model, CARD), RestorationSession)


def test_an_engine_without_its_manifest(engine: Engine) -> None:
    manifest_path(engine.path).unlink()
    with pytest.raises(UserError, match=r"has no manifest shipped\.plan\.json beside it"):
        load_shipped(engine.path)
