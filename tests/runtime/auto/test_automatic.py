"""Pairs beside a compensated node: which layers and how much time it takes from them, whether one holds or none."""

from __future__ import annotations

from dataclasses import dataclass

import onnx
import pytest

from kdguard.export.model_card import ModelCard
from kdguard.graph_passes.op import SvdPerturbAttributes
from kdguard.runtime.analysis import Analysis, analyse
from kdguard.runtime.auto import automatic
from kdguard.runtime.auto.automatic import NONE_HELD, plan_auto
from kdguard.runtime.auto.options import HardenOptions
from kdguard.runtime.auto.paired import pair_cost
from kdguard.runtime.auto.plan import Plan, in_path_cost, with_compensation
from kdguard.runtime.auto.split import Split, split
from kdguard.runtime.compensation.bench import Outcome
from kdguard.runtime.compensation.candidate import Candidate, Compensation
from kdguard.runtime.compensation.search import Found
from kdguard.runtime.session import RestorationSession
from tests.conftest import make_conv_net
from tests.runtime.image_pairs import noisy_pairs


@dataclass(frozen=True)
class Given:
    """What is known of the small network, whose maps a, b, c and d may all be paired."""

    model: onnx.ModelProto
    analysis: Analysis
    images: Split


@pytest.fixture
def given(card: ModelCard) -> Given:
    model, pairs = make_conv_net(), noisy_pairs(6)
    found = analyse(model, card, pairs, sensitivity=False)
    middle = [layer.model_copy(update={"depth": 0.4 if layer.name == "a" else layer.depth}) for layer in found.layers]
    analysis = found.model_copy(update={"layers": middle})
    return Given(model, analysis, split(pairs, card, analysis, RestorationSession(model, card)))


def compensation(layer: str) -> Compensation:
    """Made up: these tests choose for themselves which one holds."""
    outcome = Outcome(2.0, 20.0, 15.0, 60.0, 0.01, 0.0, 4.0)
    return Compensation(Candidate(layer, SvdPerturbAttributes(rank=2), (), ()), {}, outcome)


def plan_where(
    held: Compensation | None,
    candidates: list[Compensation],
    given: Given,
    card: ModelCard,
    max_slowdown: float,
    monkeypatch: pytest.MonkeyPatch,
) -> Plan:
    def last_check(_model: object, _card: object, base: Plan, tried: list[Compensation], *_: object) -> Plan | None:
        assert tried == candidates
        return with_compensation(base, held) if held else None

    monkeypatch.setattr(automatic, "choose_compensated", lambda *_: Found(candidates))
    monkeypatch.setattr(automatic, "first_that_holds", last_check)
    return plan_auto(given.model, card, given.analysis, given.images, HardenOptions(max_slowdown=max_slowdown))


def placements(plan: Plan) -> list[tuple[str, str]]:
    return sorted((site.layer, site.placement) for site in plan.sites)


def test_where_the_second_candidate_holds_no_pair_stands_in_its_way(
    given: Given, card: ModelCard, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Pairs are chosen once, before it is known which candidate holds: they keep off the maps of both."""
    first, second = compensation("c"), compensation("d")
    plan = plan_where(second, [first, second], given, card, 10.0, monkeypatch)
    assert placements(plan) == [("a", "paired"), ("b", "paired"), ("d", "in-path")]
    assert NONE_HELD not in plan.notes


def test_where_none_holds_its_layer_and_its_time_are_free(
    given: Given, card: ModelCard, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The limit leaves room for all four pairs, and for fewer beside a compensated node."""
    tried = compensation("d")
    analysis = given.analysis
    pairs = sum(pair_cost(layer) for layer in analysis.layers if layer.name in ("a", "b", "c", "d"))
    limit = 1 + pairs / analysis.cost + 1e-6
    assert in_path_cost(analysis, "d", tried.attributes) > 1e-6 * analysis.cost
    plan = plan_where(None, [tried], given, card, limit, monkeypatch)
    assert placements(plan) == [(layer, "paired") for layer in ("a", "b", "c", "d")]
    assert plan.notes == (NONE_HELD,)
