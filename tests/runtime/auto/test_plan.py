"""Weakening until the gates hold, and whole plans on a small network with real photographs."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

from kdguard.export.errors import GateFailedError, UserError
from kdguard.export.model_card import ModelCard
from kdguard.graph_passes.costs import (
    IN_PATH_PER_VALUE,
    PER_OP,
    PER_VECTOR,
    PRODUCTS_PER_VECTOR,
    estimated_ratio,
    op_cost,
)
from kdguard.graph_passes.inventory import hardened_layers
from kdguard.graph_passes.op import SvdPerturbAttributes
from kdguard.runtime.analysis import Analysis, analyse
from kdguard.runtime.auto.automatic import choose_compensated, plan_auto
from kdguard.runtime.auto.check import MAX_ATTEMPTS, strongest_that_holds
from kdguard.runtime.auto.options import HardenOptions, PlacementChoice
from kdguard.runtime.auto.paired import choose_paired, pair_cost
from kdguard.runtime.auto.plan import Plan, choose_pairs, with_compensation
from kdguard.runtime.auto.split import split
from kdguard.runtime.compensation.bench import Outcome
from kdguard.runtime.compensation.candidate import Compensation, gather
from kdguard.runtime.compensation.reserve import Reserve
from kdguard.runtime.fidelity import measure_fidelity
from kdguard.runtime.session import RestorationSession
from tests.conftest import make_conv_net
from tests.runtime.image_pairs import noisy_pairs


def changed(analysis: Analysis, name: str, **values: object) -> Analysis:
    layers = [layer.model_copy(update=values) if layer.name == name else layer for layer in analysis.layers]
    return analysis.model_copy(update={"layers": layers})


@pytest.fixture
def candidate(card: ModelCard) -> Compensation:
    layers = {"d": [SvdPerturbAttributes(rank=2)]}
    (found,) = gather(make_conv_net(), card, layers, noisy_pairs(2), 1000, "")
    return Compensation(found, found.refits(2.0), Outcome(2.0, 20.0, 15.0, 60.0, 0.01, 0.0, 4.0))


def holds_up_to(limit: float, asked: list[float]) -> Callable[[Compensation], float]:
    def room(tried: Compensation) -> float:
        asked.append(tried.outcome.excess)
        return 2.0 if tried.outcome.excess <= limit else 0.5

    return room


def test_what_holds_with_nothing_to_spare_is_taken_as_it_is(candidate: Compensation) -> None:
    asked: list[float] = []

    def just_enough(tried: Compensation) -> float:
        asked.append(tried.outcome.excess)
        return 1.05

    assert strongest_that_holds(candidate, just_enough) is candidate
    assert asked == [2.0]


def test_what_leaves_room_is_strengthened(candidate: Compensation) -> None:
    asked: list[float] = []
    held = strongest_that_holds(candidate, holds_up_to(9.0, asked))
    assert held is not None
    assert 2.0 < held.outcome.excess <= 9.0
    assert len(asked) <= MAX_ATTEMPTS


def test_weaker_until_it_holds_then_back_halfway(candidate: Compensation) -> None:
    asked: list[float] = []
    held = strongest_that_holds(candidate, holds_up_to(1.5, asked))
    assert held is not None
    assert len(asked) == MAX_ATTEMPTS
    first = next(excess for excess in asked if excess <= 1.5)
    assert first < held.outcome.excess <= 1.5
    assert held.outcome.excess == max(excess for excess in asked if excess <= 1.5)


def test_what_never_holds_is_dropped(candidate: Compensation) -> None:
    asked: list[float] = []
    assert strongest_that_holds(candidate, holds_up_to(0.0, asked)) is None
    assert len(asked) == MAX_ATTEMPTS
    assert asked == sorted(asked, reverse=True)


def test_a_layer_is_not_paired_and_compensated_at_once(candidate: Compensation) -> None:
    model, card, pairs = make_conv_net(), candidate_card(), noisy_pairs(4)
    analysis = analyse(model, card, pairs, sensitivity=False)
    common = (HardenOptions(max_slowdown=10.0), 0.0)
    free = choose_pairs(model, card, analysis, pairs, *common)
    assert "d" in {site.layer for site in free.sites}
    base = choose_pairs(model, card, analysis, pairs, *common, reserved={"d"})
    assert base.sites
    plan = with_compensation(base, candidate)
    assert [site.placement for site in plan.sites if site.layer == "d"] == ["in-path"]
    assert plan.coverage == base.coverage  # of paired taps
    assert "compensated" in plan.reasons["d"]
    assert plan.rules.splitlines()[0].startswith("1.")
    assert "7. Compensated" in plan.rules


def test_the_estimated_time_of_a_plan_is_that_of_the_model_it_makes(card: ModelCard) -> None:
    model, pairs = make_conv_net(), noisy_pairs(4)
    analysis = analyse(model, card, pairs, sensitivity=False)
    plan = choose_pairs(model, card, analysis, pairs, HardenOptions(), 0.0)
    ratio = estimated_ratio(model, plan.apply(model), {card.input_name: analysis.whole_shape})
    (note,) = plan.notes
    assert ratio > 1.05
    assert f"estimated time {ratio:.2f} of the clean model's" in note


def test_time_of_other_nodes_counts_against_the_limit(card: ModelCard) -> None:
    """All four maps fit, one fewer where another node takes time, and never fewer than rule 2 asks for."""
    model, pairs = make_conv_net(), noisy_pairs(2)
    found = analyse(model, card, pairs, sensitivity=False)
    analysis = changed(found, "a", depth=0.4)  # into the middle third
    costs = [pair_cost(layer) for layer in analysis.layers if layer.name in ("a", "b", "c", "d")]
    assert costs[-1] == op_cost(8 * 48 * 48, 8, 1, paired=True)
    options = HardenOptions(max_slowdown=1 + sum(costs) / analysis.cost + 1e-6)

    def chosen(spare: float) -> Plan:
        return choose_pairs(model, card, analysis, pairs, options, spare)

    assert (len(chosen(0.0).sites), chosen(0.0).notes) == (4, ())
    some = 0.5 * min(costs)
    assert (len(chosen(some).sites), chosen(some).notes) == (3, ())
    assert len(chosen(max(costs) + 1e-3 * analysis.cost).sites) == 3
    assert "holds for further layers" in chosen(max(costs) + 1e-3 * analysis.cost).notes[0]


def test_a_compensated_node_has_its_price_and_its_share_of_the_time(card: ModelCard) -> None:
    """The estimate worked out by hand, and a limit that the pairs keep by themselves, and with half of the node's."""
    model, pairs = make_conv_net(), noisy_pairs(4)
    analysis = analyse(model, card, pairs, sensitivity=False)
    images = split(pairs, card, analysis, RestorationSession(model, card))
    found = choose_compensated(model, card, analysis, images, ["d"], Reserve(0.1))
    assert found.kept
    for entry in found.kept:
        rank = entry.attributes.rank
        node = IN_PATH_PER_VALUE * 8 * 48 * 48 + PER_OP + rank * (PER_VECTOR + PRODUCTS_PER_VECTOR * 8**3)
        assert entry.candidate.slowdown == pytest.approx(node / analysis.cost)
    node = found.kept[0].candidate.slowdown
    pairs_alone = sum(pair_cost(layer) for layer in analysis.layers if layer.name in ("b", "c")) / analysis.cost
    plan = plan_auto(model, card, analysis, images, HardenOptions(max_slowdown=1 + pairs_alone + node / 2))
    assert [site.layer for site in plan.sites] == ["b", "c", "d"]
    assert f"estimated time {1 + pairs_alone + node:.2f}" in plan.notes[0]


def with_idle_map() -> onnx.ModelProto:
    """The small network, and a lively map `idle` that is multiplied by zero before it is added."""
    model = make_conv_net()
    nodes = list(model.graph.node)
    branch = [
        helper.make_node("Sigmoid", ["c"], ["idle"]),
        helper.make_node("Mul", ["idle", "zero"], ["nothing"]),
        helper.make_node("Add", ["d", "nothing"], ["e"]),
    ]
    del model.graph.node[:]
    nodes[4].input[0] = "e"
    model.graph.node.extend([*nodes[:4], *branch, *nodes[4:]])
    model.graph.initializer.append(numpy_helper.from_array(np.zeros((), np.float32), "zero"))
    return model


def test_a_map_without_influence_is_replaced_by_another(card: ModelCard) -> None:
    model, pairs = with_idle_map(), noisy_pairs(2)
    analysis = analyse(model, card, pairs, sensitivity=False)
    analysis = changed(analysis, "idle", values=1)  # the cheapest of all
    assert "idle" in {entry.layer for entry in choose_paired(analysis, 0.0, 1.0)}
    plan = choose_pairs(model, card, analysis, pairs, HardenOptions(max_slowdown=1.0), 0.0)
    assert len(plan.sites) == 3
    assert "idle" not in {site.layer for site in plan.sites}


def candidate_card() -> ModelCard:
    return ModelCard(task="deraining", input_name="image", output_name="restored")


@pytest.mark.parametrize("placement", ["auto", "compensated", "paired"])
def test_plans_keep_the_gates_on_images_they_have_not_seen(card: ModelCard, placement: PlacementChoice) -> None:
    model, pairs = make_conv_net(), noisy_pairs(6)
    analysis = analyse(model, card, pairs, sensitivity=False)
    images = split(pairs, card, analysis, RestorationSession(model, card))
    plan = plan_auto(model, card, analysis, images, HardenOptions(placement=placement))
    hardened = plan.apply(model)
    found = {entry.layer: entry.placement for entry in hardened_layers(hardened)}
    assert ("in-path" in found.values()) == (placement != "paired")
    assert ("paired" in found.values()) == (placement != "compensated")
    assert found.keys() == plan.reasons.keys()
    unseen = noisy_pairs(9)[6:]
    sessions = RestorationSession(model, card), RestorationSession(hardened, card)
    report, _ = measure_fidelity(*sessions, unseen, card.task)
    assert report.within_budget, report.failures()


def test_no_eligible_layer(card: ModelCard) -> None:
    """All maps are too narrow for a pair, and nothing is said about compensating."""
    model, pairs = make_conv_net(4), noisy_pairs(4)
    analysis = analyse(model, card, pairs, sensitivity=False)
    with pytest.raises(UserError, match=r"no eligible layer: .* fewer than 8 channels"):
        images = split(pairs, card, analysis, RestorationSession(model, card))
        plan_auto(model, card, analysis, images, HardenOptions(placement="paired"))


def test_a_compensated_layer_that_cannot_be_is_named(card: ModelCard) -> None:
    model, pairs = make_conv_net(), noisy_pairs(4)
    analysis = analyse(model, card, pairs, sensitivity=False)
    images = split(pairs, card, analysis, RestorationSession(model, card))

    def plan(layers: list[str] | None, changes: dict[str, object]) -> Plan:
        layers_analysed = [layer.model_copy(update=changes) for layer in analysis.layers]
        changed = analysis.model_copy(update={"layers": layers_analysed})
        return plan_auto(model, card, changed, images, HardenOptions(placement="compensated"), layers)

    with pytest.raises(UserError, match="layer 'b' cannot be compensated"):
        plan(["b"], {})
    with pytest.raises(GateFailedError, match="none that is alive is read by plain convolutions only"):
        plan(None, {"dead": True})


def test_fewer_than_four_images_fit_no_weights(card: ModelCard) -> None:
    """They would be checked on what they were fitted to: on other images such a model was 6 dB worse."""
    model, pairs = make_conv_net(), noisy_pairs(3)
    analysis = analyse(model, card, pairs, sensitivity=False)
    images = split(pairs, card, analysis, RestorationSession(model, card))
    plan = plan_auto(model, card, analysis, images, HardenOptions())
    assert plan.sites
    assert {site.placement for site in plan.sites} == {"paired"}
    assert not plan.refits
    assert "takes four or more" in plan.notes[-1]
    with pytest.raises(UserError, match="give more calibration images"):
        plan_auto(model, card, analysis, images, HardenOptions(placement="compensated"))


def test_a_gain_that_moves_little_misleads_no_tap(card: ModelCard) -> None:
    model, pairs = make_conv_net(), noisy_pairs(2)
    found = analyse(model, card, pairs, sensitivity=False)
    analysis = changed(found, "b", depth=0.5)
    weak, strong = (
        choose_pairs(model, card, analysis, pairs, HardenOptions(gain=gain), 0.0).coverage for gain in (1.01, 30.0)
    )
    assert weak is not None
    assert strong is not None
    assert weak[0] == 0 < strong[0]
    assert weak[1] == strong[1]
