"""Shares of in-path gains, and the scan that finds how much all layers bear together."""

from __future__ import annotations

import pytest

from kdguard.export.errors import GateFailedError, UserError
from kdguard.export.model_card import ModelCard
from kdguard.graph_passes.op import SvdPerturbAttributes
from kdguard.runtime.analysis import Analysis, analyse
from kdguard.runtime.auto.in_path import plan_in_path, shares_of
from kdguard.runtime.auto.plan import Plan
from kdguard.runtime.compensation.reserve import MIN_BETWEEN_DB, Reserve
from kdguard.runtime.fidelity import measure_fidelity
from kdguard.runtime.session import RestorationSession
from tests.conftest import make_conv_net
from tests.runtime.image_pairs import noisy_pairs

RANK_2 = SvdPerturbAttributes(rank=2)


@pytest.fixture
def analysis(card: ModelCard) -> Analysis:
    return analyse(make_conv_net(), card, noisy_pairs(2))


def changed(analysis: Analysis, name: str, **values: object) -> Analysis:
    layers = [layer.model_copy(update=values) if layer.name == name else layer for layer in analysis.layers]
    return analysis.model_copy(update={"layers": layers})


def test_shares_follow_what_each_layer_bears(analysis: Analysis) -> None:
    known = changed(changed(analysis, "b", psnr_between_db=40.0), "d", psnr_between_db=60.0)
    assert shares_of(known, ["b", "d"]) == pytest.approx({"b": 0.1, "d": 1.0})
    assert shares_of(known, ["b"]) == {"b": 1.0}


@pytest.mark.parametrize("values", [{"dead": True}, {"influences": False, "psnr_between_db": 200.0}])
def test_a_layer_that_bears_everything_is_refused_by_name(analysis: Analysis, values: dict[str, object]) -> None:
    """It would take the whole scan and leave the others a gain of 1."""
    with pytest.raises(UserError, match="layer 'b' cannot be given a gain by a scan"):
        shares_of(changed(analysis, "b", **values), ["b", "d"])
    with pytest.raises(UserError, match=r"'tokens' .*3-D"):
        shares_of(analysis.model_copy(update={"skipped": {"tokens": "3-D"}}), ["tokens"])


def scan(card: ModelCard, analysis: Analysis, budget_db: float = 0.1) -> Plan:
    return plan_in_path(make_conv_net(), card, analysis, ["c", "d"], RANK_2, noisy_pairs(3), budget_db)


def test_the_gains_hold_and_not_much_more_would(card: ModelCard, analysis: Analysis) -> None:
    plan = scan(card, analysis)
    assert {site.placement for site in plan.sites} == {"in-path"}
    clean = RestorationSession(make_conv_net(), card)

    def room(factor: float) -> float:
        sites = [
            type(site)(
                site.layer,
                site.attributes.model_copy(update={"gain": 1 + factor * (site.attributes.gain - 1)}),
                "in-path",
            )
            for site in plan.sites
        ]
        hardened = RestorationSession(Plan(sites).apply(make_conv_net()), card)
        return Reserve(0.1, absolute=False).on_check(measure_fidelity(clean, hardened, noisy_pairs(3), card.task)[0])

    assert room(1) >= 0.999
    assert room(1.2) < 1
    assert min(site.attributes.gain for site in plan.sites) > 1.001
    assert set(plan.reasons) == {"c", "d"}


def test_no_more_is_asked_than_the_gates_and_a_little(card: ModelCard, analysis: Analysis) -> None:
    """The least value that compensated outputs need beside would leave these nodes hardly any gain."""
    hardened = scan(card, analysis, budget_db=1.0).apply(make_conv_net())
    sessions = RestorationSession(make_conv_net(), card), RestorationSession(hardened, card)
    report, _ = measure_fidelity(*sessions, noisy_pairs(3), card.task, 1.0)
    assert report.within_budget
    assert report.psnr_between_db < MIN_BETWEEN_DB - 5


def test_no_gain_without_a_budget(card: ModelCard, analysis: Analysis) -> None:
    pairs = noisy_pairs(3)
    session = RestorationSession(make_conv_net(), card)
    perfect = [type(p)(p.name, p.degraded, session.restore(p.degraded).clip(0, 1)) for p in pairs]
    with pytest.raises(GateFailedError, match=r"no in-path gain keeps the gates: at gain .*nothing was written"):
        plan_in_path(make_conv_net(), card, analysis, ["c", "d"], RANK_2, perfect, 0.0)
