"""Engines as sessions: what they answer, and what they refuse."""

from __future__ import annotations

import os
from pathlib import Path
from types import SimpleNamespace
from typing import get_args

import numpy as np
import pytest

from kdguard.export.errors import MissingDependencyError, UserError
from kdguard.export.model_card import ModelCard
from kdguard.runtime.engines.manifest import manifest_path
from kdguard.runtime.engines.runner import Request
from kdguard.runtime.engines.session import Engine, EngineSession, load_engine, start_engines
from kdguard.runtime.engines.tensor_types import NUMPY_TYPES, VendorType
from kdguard.runtime.gpu import compute_capability
from kdguard.runtime.session import RestorationSession
from kdguard.runtime.shipped import card_of, hash_shipped, layers_of, load_shipped, shipped_files, start
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


def test_manifests_and_names_that_cannot_be_read(engine: Engine) -> None:
    manifest_path(engine.path).unlink()
    os.mkfifo(manifest_path(engine.path))
    with pytest.raises(UserError, match=r"shipped\.plan\.json is no file, and should be the manifest of shipped\.plan"):
        load_shipped(engine.path)
    long = engine.path.with_name("n" * 300 + ".engine")
    assert shipped_files(long) == [long, manifest_path(long)]
    with pytest.raises(UserError, match="cannot be read: File name too long"):
        load_shipped(long)


def test_the_files_of_a_link(engine: Engine, tmp_path: Path) -> None:
    link = tmp_path / "current.engine"
    link.symlink_to(engine.path)
    assert shipped_files(link) == [link, manifest_path(engine.path).resolve()]
    manifest_path(link).write_text("{}")
    assert shipped_files(link) == [link, manifest_path(link)]


def test_what_is_fed_is_what_manifests_name() -> None:
    assert set(NUMPY_TYPES) == set(get_args(VendorType))


def test_a_file_with_json_beside_it_is_no_engine_for_that(conv_net_file: Path) -> None:
    manifest_path(conv_net_file).write_text("{}")
    assert not isinstance(load_shipped(conv_net_file), Engine)
    (conv_net_file.with_name("RENAMED")).write_bytes(b"ftrt" + bytes(100))
    with pytest.raises(UserError, match="has no manifest"):
        load_shipped(conv_net_file.with_name("RENAMED"))


@pytest.mark.parametrize(("said", "allowed"), [(None, False), ("0", False), ("1", True)])
def test_code_in_an_engine_runs_only_where_the_user_says_so(
    engine: Engine, said: str | None, allowed: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[Request] = []
    monkeypatch.setattr("kdguard.runtime.engines.session.compute_capability", lambda: "8.9")
    monkeypatch.setattr("kdguard.runtime.engines.session.check_installed", lambda kind: None)
    monkeypatch.setattr("kdguard.runtime.engines.session.check_engine", lambda *_: None)
    monkeypatch.setattr("kdguard.runtime.engines.session.import_module", lambda _: SimpleNamespace(__version__="1.0"))
    monkeypatch.setattr("kdguard.runtime.engines.session.EngineProcess", lambda request, _: asked.append(request))
    if said is not None:
        monkeypatch.setenv("KDGUARD_ENGINE_HOST_CODE", said)
    compatible = Engine(engine.path, engine.manifest.model_copy(update={"version_compatible": True}))
    start_engines(compatible, engine)
    assert asked[0].host_code_allowed == [allowed, False]
