"""The bench drives gain and weights as inputs; what it measures must be what the passes build."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx
import pytest
from onnx import TensorProto

from kdguard.export.model_card import ModelCard
from kdguard.export.tasks import get_task
from kdguard.graph_passes.insert_svd_perturb import InsertSvdPerturb, Site
from kdguard.graph_passes.op import SvdPerturbAttributes
from kdguard.graph_passes.refit_consumers import RefitConsumers, conv_readers
from kdguard.graph_passes.strip_nodes import StripNodes
from kdguard.runtime.compensation.bench import Baseline, TrialBench
from kdguard.runtime.compensation.candidate import gather
from kdguard.runtime.metrics import psnr, ssim
from kdguard.runtime.session import RestorationSession
from tests.awkward_graphs import shared_weight
from tests.conftest import make_conv_net
from tests.runtime.image_pairs import noisy_pairs

RANK_2 = SvdPerturbAttributes(rank=2)


def half() -> onnx.ModelProto:
    return make_conv_net(dtype=TensorProto.FLOAT16)


CASES: dict[str, tuple[Callable[[], onnx.ModelProto], str, float]] = {
    "plain": (make_conv_net, "d", 1e-5),
    "half precision": (half, "d", 3e-3),
    "shared weight": (shared_weight, "b", 1e-5),
}


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("excess", [1.7, -0.5])
def test_bench_and_passes_agree(name: str, excess: float, card: ModelCard) -> None:
    build, layer, tolerance = CASES[name]
    model, pairs = build(), noisy_pairs(2)
    readers = conv_readers(model, layer)
    assert readers
    (candidate,) = gather(model, card, {layer: [RANK_2]}, pairs, 2000, "")
    refits = candidate.refits(excess)
    bench = TrialBench(model, card, layer, RANK_2, readers, amplify=excess > 0)
    weights = {output: (refit.weight, refit.bias) for output, refit in refits.items()}
    site = Site(layer, RANK_2.model_copy(update={"gain": 1 + excess}), "in-path")
    built = InsertSvdPerturb(sites=[site])(RefitConsumers(weights)(model).model).model
    hardened, stripped = (RestorationSession(entry, card) for entry in (built, StripNodes()(built).model))
    for pair in pairs:
        expected, without = (session.restore(pair.degraded) for session in (hardened, stripped))
        assert np.abs(expected - without).max() > 5 * tolerance
        np.testing.assert_allclose(bench.restore(pair.degraded, excess, refits), expected, atol=tolerance)
        np.testing.assert_allclose(bench.restore(pair.degraded, 0.0, refits), without, atol=tolerance)


def test_outcome_is_what_the_metrics_say(card: ModelCard) -> None:
    model, pairs, excess = make_conv_net(), noisy_pairs(3), 1.0
    (candidate,) = gather(model, card, {"d": [RANK_2]}, pairs, 2000, "")
    refits = candidate.refits(excess)
    bench = TrialBench(model, card, "d", RANK_2, candidate.readers, amplify=True)
    session, task = RestorationSession(model, card), get_task(card.task)
    clean = [session.restore(pair.degraded) for pair in pairs]
    outcome = bench.try_gain(
        excess, refits, pairs, [Baseline.of(c, p, card) for c, p in zip(clean, pairs, strict=True)]
    )

    def scores(images: list[np.ndarray]) -> np.ndarray:
        return np.array([psnr(image, pair.clean, task) for image, pair in zip(images, pairs, strict=True)])

    hardened, stripped = ([bench.restore(p.degraded, at, refits) for p in pairs] for at in (excess, 0.0))
    between = np.array([psnr(h, c, task, clip=False) for h, c in zip(hardened, clean, strict=True)])
    margins = between - scores(clean)
    similar = [np.mean([ssim(i, p.clean, task) for i, p in zip(s, pairs, strict=True)]) for s in (clean, hardened)]
    assert outcome.excess == excess
    assert outcome.margin_db == pytest.approx(margins.mean())
    assert outcome.worst_margin_db == pytest.approx(margins.min())
    assert outcome.loss_db == pytest.approx(np.mean(scores(clean) - scores(hardened)))
    assert outcome.ssim_loss == pytest.approx(similar[0] - similar[1])
    assert outcome.strip_db == pytest.approx(np.mean(scores(hardened) - scores(stripped)))
    assert outcome.worst_margin_db < outcome.margin_db


def test_a_gain_that_does_nothing_costs_nothing(card: ModelCard) -> None:
    model, pairs = make_conv_net(), noisy_pairs(1)
    (candidate,) = gather(model, card, {"d": [RANK_2]}, pairs, 2000, "")
    bench = TrialBench(model, card, "d", RANK_2, candidate.readers, amplify=True)
    clean = [RestorationSession(model, card).restore(pairs[0].degraded)]
    outcome = bench.try_gain(0.0, candidate.refits(0.0), pairs, [Baseline.of(clean[0], pairs[0], card)])
    assert abs(outcome.loss_db) < 1e-4
    assert outcome.strip_db == 0
    assert outcome.margin_db > 60
