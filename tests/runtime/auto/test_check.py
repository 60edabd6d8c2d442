"""The last check: which candidate is taken, and that the clean teacher is asked and scored once."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest

from kdguard.export.model_card import ModelCard
from kdguard.export.tasks import Image
from kdguard.graph_passes.op import SvdPerturbAttributes
from kdguard.runtime import fidelity
from kdguard.runtime.auto import check
from kdguard.runtime.auto.check import first_that_holds
from kdguard.runtime.auto.plan import Plan
from kdguard.runtime.compensation.bench import Outcome
from kdguard.runtime.compensation.candidate import Compensation, gather
from kdguard.runtime.compensation.reserve import Reserve
from kdguard.runtime.fidelity import FidelityReport
from kdguard.runtime.session import RestorationSession
from tests.conftest import make_conv_net
from tests.runtime.image_pairs import noisy_pairs


class JustEnough(Reserve):
    """Every candidate holds as it is, with too little to spare for a stronger gain."""

    def on_check(self, report: FidelityReport) -> float:
        return 1.05


@pytest.fixture
def candidates(card: ModelCard) -> list[Compensation]:
    """Rank 2 costs a stripper 5 dB and 3 % of the time, rank 1 costs him 4 dB and takes no time."""
    layers = {"d": [SvdPerturbAttributes(rank=rank) for rank in (2, 1)]}
    dear, free = gather(make_conv_net(), card, layers, noisy_pairs(2), 1000, "")
    outcome = Outcome(0.5, 20.0, 15.0, 60.0, 0.01, 0.0, strip_db=5.0)
    return [
        Compensation(replace(dear, slowdown=0.03), dear.refits(0.5), outcome),
        Compensation(free, free.refits(0.5), replace(outcome, strip_db=4.0)),
    ]


@pytest.fixture(autouse=True)
def on_check(monkeypatch: pytest.MonkeyPatch) -> dict[str, float]:
    """What deletion costs on the images of the last check, in dB."""
    found = {"loss": 5.0}
    monkeypatch.setattr(check, "measure_strip", lambda *_: SimpleNamespace(stripped_loss_db=found["loss"]))
    return found


def test_time_counts_against_what_stripping_costs(card: ModelCard, candidates: list[Compensation]) -> None:
    pairs, reserve = noisy_pairs(1), JustEnough(0.1)
    for order in (candidates, candidates[::-1]):
        plan = first_that_holds(make_conv_net(), card, Plan([]), order, pairs, reserve, False)
        assert plan is not None
        assert [site.attributes.rank for site in plan.sites] == [1]


def test_the_clean_teacher_is_asked_and_scored_once(
    card: ModelCard, candidates: list[Compensation], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two candidates on three images: three runs and scores of the teacher, six of hardened models."""
    runs: Counter[RestorationSession] = Counter()
    restore, ssim, scored = RestorationSession.restore, fidelity.ssim, []

    def counted(session: RestorationSession, image: Image, *further: Any) -> Image:
        runs[session] += 1
        return restore(session, image, *further)

    monkeypatch.setattr(RestorationSession, "restore", counted)
    monkeypatch.setattr(fidelity, "ssim", lambda *arguments: scored.append(1) or ssim(*arguments))
    first_that_holds(make_conv_net(), card, Plan([]), candidates, noisy_pairs(3), JustEnough(0.1), False)
    assert list(runs.values()) == [3, 3, 3]
    assert len(scored) == 3 + 2 * 3


def test_a_node_that_costs_a_stripper_nothing_on_the_last_check_is_left_out(
    card: ModelCard, candidates: list[Compensation], on_check: dict[str, float]
) -> None:
    """The scan said 4 and 5 dB, on other images."""
    arguments = (make_conv_net(), card, Plan([]), candidates, noisy_pairs(1), JustEnough(0.1), False)
    on_check["loss"] = 0.0
    assert first_that_holds(*arguments) is None
    on_check["loss"] = 2.0
    assert first_that_holds(*arguments) is not None
