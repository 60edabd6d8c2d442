"""What the op is held against does the same job, and is asked about the maps that the model really has."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from kdguard.export.model_card import ModelCard
from kdguard.graph_passes.insert_svd_perturb import InsertSvdPerturb, Site
from kdguard.graph_passes.op import SvdPerturbAttributes
from kdguard.graph_passes.op.reference import svd_perturb
from kdguard.runtime.bench import op_alone
from kdguard.runtime.bench.op_alone import amplify_by_lowrank_svd, amplify_by_svd, find_cases, measure_case
from kdguard.runtime.bench.subject import Subject
from kdguard.runtime.engines.shapes import Size
from kdguard.runtime.session import RestorationSession
from tests.conftest import make_conv_net
from tests.graph_passes.op.op_models import map_with_spectrum, relative_error

PLAIN = SvdPerturbAttributes(rank=2, gain=10.0)


def subject(*sites: Site, dtype: int = 1) -> Subject:
    clean = make_conv_net(dtype=dtype)
    hardened = InsertSvdPerturb(sites=list(sites))(clean).model
    card = ModelCard(task="deraining", input_name="image", output_name="restored")
    return Subject(Path("t.onnx"), Path("h.onnx"), (clean, hardened), card, Size(24, 40))


@pytest.mark.parametrize("centred", [False, True])
@pytest.mark.parametrize("rank", [1, 3, 9])
def test_both_svds_do_what_the_reference_does(centred: bool, rank: int) -> None:
    attributes = SvdPerturbAttributes(rank=rank, gain=7.0, centred=centred)
    rng = np.random.default_rng(0)
    maps = map_with_spectrum(rng, 8, (9, 14), np.geomspace(1, 1e-3, 8), batch=2, centred=centred).astype(np.float32)
    expected = svd_perturb(maps, attributes).Y
    torch.manual_seed(0)
    for amplify in (amplify_by_svd, amplify_by_lowrank_svd):
        found = amplify(torch.from_numpy(maps), attributes)
        assert found.shape == maps.shape
        assert relative_error(found.numpy(), expected) < 1e-5, amplify.__name__


def test_equal_layers_are_one_case() -> None:
    """Gains and keys take no time; placements, ranks and switches might."""
    sites = [Site("b", PLAIN), Site("d", SvdPerturbAttributes(rank=2, gain=3.0)), Site("c", PLAIN, "in-path")]
    asked = subject(*sites)
    cases, left_out = find_cases(asked, "cpu", 1)
    assert [case.layers for case in cases] == [["b", "d"], ["c"]]
    assert [case.attributes.shared for case in cases] == [True, False]
    assert left_out == {}
    clean = RestorationSession(asked.models[0], asked.card, taps=["b"]).run(asked.tensor)[1]
    np.testing.assert_allclose(cases[0].features, clean, rtol=1e-5, atol=1e-6)
    other = subject(Site("b", PLAIN), Site("d", SvdPerturbAttributes(rank=3, gain=10.0)))
    assert [case.layers for case in find_cases(other, "cpu", 1)[0]] == [["b"], ["d"]]


@pytest.mark.parametrize("dtype", [1, 10])
def test_one_case(dtype: int) -> None:
    asked = subject(Site("b", PLAIN), dtype=dtype)
    (case,), _ = find_cases(asked, "cpu", 1)
    threads = torch.get_num_threads()
    found = measure_case(case, asked.models[1], "cpu", 1, 2)
    assert (found.layers, found.shape, found.rank, found.kernels) == (["b"], [1, 8, 24, 40], 2, "function")
    assert found.dtype == {1: "float32", 10: "float16"}[dtype]
    for timing in (found.op, found.plain_copy, found.svd, found.svd_lowrank):
        assert timing.n == 2
        assert timing.median_ms > 0
    assert found.op_over_copy.n == 2
    assert found.svd_lowrank_error < 0.01
    assert torch.get_num_threads() == threads
    assert (found.svd_threads, found.svd_lowrank_threads) == (1, 1)


def test_an_svd_runs_by_the_threads_that_serve_it_best(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two threads are slow where each other's core is busy, and one is slow elsewhere."""
    threads: dict[str, set[int]] = {"svd": set(), "svd_lowrank": set()}

    def by_threads(name: str, slow: int) -> Callable[[torch.Tensor, SvdPerturbAttributes], torch.Tensor]:
        def run(features: torch.Tensor, attributes: SvdPerturbAttributes) -> torch.Tensor:
            threads[name].add(torch.get_num_threads())
            time.sleep(0.3 if torch.get_num_threads() == slow else 0)
            return features

        return run

    monkeypatch.setattr(op_alone, "amplify_by_svd", by_threads("svd", 2))
    monkeypatch.setattr(op_alone, "amplify_by_lowrank_svd", by_threads("svd_lowrank", 1))
    asked = subject(Site("b", PLAIN))
    (case,), _ = find_cases(asked, "cpu", 2)
    found = measure_case(case, asked.models[1], "cpu", 2, 2)
    assert threads == {"svd": {1, 2}, "svd_lowrank": {1, 2}}
    assert (found.svd_threads, found.svd_lowrank_threads) == (1, 2)
