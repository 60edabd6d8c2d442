"""Weakening until the gates hold, and whole plans on a small network with real photographs."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from kdguard.export.errors import GateFailedError, UserError
from kdguard.export.model_card import ModelCard
from kdguard.graph_passes.inventory import hardened_layers
from kdguard.graph_passes.op import SvdPerturbAttributes
from kdguard.runtime.analysis import analyse
from kdguard.runtime.auto.plan import (
    CHECK_SHARE,
    CHECK_SSIM,
    MAX_ATTEMPTS,
    Plan,
    choose_pairs,
    plan_auto,
    room_left,
    strongest_that_holds,
    with_compensation,
)
from kdguard.runtime.auto.split import split
from kdguard.runtime.compensation.bench import Outcome
from kdguard.runtime.compensation.candidate import Compensation, gather
from kdguard.runtime.fidelity import FidelityReport, Quality, measure_fidelity
from kdguard.runtime.session import RestorationSession
from tests.conftest import make_conv_net
from tests.runtime.image_pairs import noisy_pairs

EASY = FidelityReport(
    n=3, teacher=Quality(psnr=30, ssim=0.9), hardened=Quality(psnr=30, ssim=0.9), delta_psnr_db=0.0, delta_ssim=0.0,
    psnr_between_db=60.0, psnr_between_floor_db=46.0, worst_margin_db=30.0, budget_db=0.1, finite=True,
    max_abs_difference=0.01, within_budget=True, provider="CPUExecutionProvider",
)  # fmt: skip


@pytest.mark.parametrize(
    ("change", "room"),
    [
        ({}, 10 ** (13.5 / 10)),
        ({"psnr_between_db": 46.5}, 1.0),
        ({"psnr_between_db": 43.5}, 10**-0.3),
        ({"worst_margin_db": 10.5}, 1.0),
        ({"worst_margin_db": 7.5}, 10**-0.3),
        ({"delta_psnr_db": 0.1}, CHECK_SHARE),
        ({"delta_ssim": 2 * CHECK_SSIM}, 0.5),
        ({"delta_psnr_db": -3.0}, 10 ** (13.5 / 10)),
        ({"finite": False}, 0.01),
    ],
)
def test_room_is_that_of_the_tightest_gate(change: dict[str, object], room: float) -> None:
    assert room_left(EASY.model_copy(update=change)) == pytest.approx(room)


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
    common = {"seed": 0, "gain": None, "spare": 0.0, "max_slowdown": 10.0}
    free = choose_pairs(model, card, analysis, pairs, **common)  # type: ignore[arg-type]
    assert "d" in {site.layer for site in free.sites}
    base = choose_pairs(model, card, analysis, pairs, reserved={"d"}, **common)  # type: ignore[arg-type]
    assert base.sites
    plan = with_compensation(base, candidate)
    assert [site.placement for site in plan.sites if site.layer == "d"] == ["in-path"]
    assert "compensated" in plan.reasons["d"]
    assert plan.rules.splitlines()[0].startswith("1.")
    assert "7. Compensated" in plan.rules


def candidate_card() -> ModelCard:
    return ModelCard(task="deraining", input_name="image", output_name="restored")


@pytest.mark.parametrize("placement", ["auto", "compensated", "paired"])
def test_plans_keep_the_gates_on_images_they_have_not_seen(card: ModelCard, placement: str) -> None:
    model, pairs = make_conv_net(), noisy_pairs(6)
    analysis = analyse(model, card, pairs, sensitivity=False)
    images = split(pairs, card, analysis)
    plan = plan_auto(
        model, card, analysis, images, placement=placement, gain=None, budget_db=0.1, max_slowdown=1.05, seed=0
    )
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
        plan_auto(
            model, card, analysis, split(pairs, card, analysis), placement="paired", gain=None, budget_db=0.1,
            max_slowdown=1.05, seed=0,
        )  # fmt: skip


def test_a_compensated_layer_that_cannot_be_is_named(card: ModelCard) -> None:
    model, pairs = make_conv_net(), noisy_pairs(4)
    analysis = analyse(model, card, pairs, sensitivity=False)
    images = split(pairs, card, analysis)

    def plan(layers: list[str] | None, changes: dict[str, object]) -> Plan:
        layers_analysed = [layer.model_copy(update=changes) for layer in analysis.layers]
        return plan_auto(
            model, card, analysis.model_copy(update={"layers": layers_analysed}), images, placement="compensated",
            gain=None, budget_db=0.1, max_slowdown=1.05, seed=0, layers=layers,
        )  # fmt: skip

    with pytest.raises(UserError, match="layer 'b' cannot be compensated"):
        plan(["b"], {})
    with pytest.raises(GateFailedError, match="none that is alive is read by plain convolutions only"):
        plan(None, {"dead": True})
