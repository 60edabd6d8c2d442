"""Which map to compensate and by how much, on a network small enough to try everything."""

from __future__ import annotations

from dataclasses import replace
from typing import ClassVar

import numpy as np
import onnx
import pytest

from kdguard.export.errors import UserError
from kdguard.export.image_pairs import ImagePair
from kdguard.export.model_card import ModelCard
from kdguard.graph_passes.op import SvdPerturbAttributes
from kdguard.runtime.compensation.bench import Outcome
from kdguard.runtime.compensation.candidate import (
    DB_PER_PERCENT,
    LEAST_GAIN,
    Candidate,
    Compensation,
    gather,
    is_refittable,
)
from kdguard.runtime.compensation.reserve import Reserve
from kdguard.runtime.compensation.search import REFINED, REFINEMENTS, search
from kdguard.runtime.session import RestorationSession
from tests.conftest import make_conv_net
from tests.graph_passes.rich_model import make_rich_model
from tests.runtime.image_pairs import noisy_pairs

GOOD = Outcome(1.0, 18.5, 13.0, 54.5, 0.01, 0.0001, 5.0)
RESERVE = Reserve(0.1)


@pytest.fixture
def compensation(card: ModelCard) -> Compensation:
    layers = {"d": [SvdPerturbAttributes(rank=2)]}
    (candidate,) = gather(make_conv_net(16), card, layers, noisy_pairs(3), 2000, "")
    return Compensation(candidate, candidate.refits(2.0), replace(GOOD, excess=2.0))


def left_over(found: Compensation) -> float:
    return max(refit.left_over for refit in found.refits.values())


@pytest.mark.parametrize("room", [0.7, 0.3])
def test_weaker_takes_the_largest_gain_that_the_room_allows(compensation: Compensation, room: float) -> None:
    found = compensation.weaker(room)
    excess = found.outcome.excess
    assert 0 < excess < 2.0
    assert left_over(found) <= room * left_over(compensation)
    if excess < 2.0 * 0.94:
        step = (0.95 / 0.1) ** (1 / 23)
        assert left_over(compensation.at(excess * step)) > room * left_over(compensation)


def test_weaker_stops_at_a_tenth_where_nothing_fits(compensation: Compensation) -> None:
    assert compensation.weaker(0.0).outcome.excess == pytest.approx(0.2)


def test_stronger_leaves_something_of_the_map(compensation: Compensation) -> None:
    """Three times an excess of -0.6 would be a gain of -0.8, whose sign no refit was asked for."""
    assert compensation.stronger(np.inf).attributes.gain == pytest.approx(7.0)
    assert LEAST_GAIN <= compensation.at(-0.6).stronger(np.inf).attributes.gain < 0.4


def test_another_gain_has_its_own_weights_and_costs_a_stripper_less(compensation: Compensation) -> None:
    found = compensation.at(0.5)
    assert found.attributes.gain == 1.5
    assert compensation.attributes.gain == 3.0
    for output, refit in found.refits.items():
        np.testing.assert_array_equal(refit.weight, compensation.candidate.refits(0.5)[output].weight)
    assert 0 < found.outcome.strip_db < compensation.outcome.strip_db
    assert compensation.at(1e-4).outcome.strip_db < 1e-3
    assert compensation.at(2.0).outcome.strip_db == pytest.approx(5.0)


def test_only_maps_that_convolutions_read_can_be_refitted() -> None:
    model = make_conv_net()
    assert [layer for layer in ("a", "b", "c", "d", "tail") if is_refittable(model, layer)] == ["d"]
    assert [layer for layer in ("a", "b", "c", "d", "f") if is_refittable(make_rich_model(), layer)] == ["c", "f"]
    assert is_refittable(make_conv_net(128), "d")
    assert not is_refittable(make_conv_net(160), "d")


def test_search_keeps_its_distance_and_puts_the_best_first(card: ModelCard) -> None:
    pairs = noisy_pairs(5)
    found = search(make_conv_net(), card, ["a", "b", "c", "d"], pairs[:3], pairs[3:], RESERVE)
    assert found.kept
    assert {entry.layer for entry in found.kept} == {"d"}
    assert {entry.attributes.rank for entry in found.kept} <= {2, 8}
    assert all(RESERVE.accepts(entry.outcome) for entry in found.kept)
    worth = [entry.worth for entry in found.kept]
    assert worth == sorted(worth, reverse=True)
    assert found.kept[0].outcome.strip_db > 1
    assert found.closest is None


def test_time_has_its_price(card: ModelCard) -> None:
    """Rank 8 costs a stripper more here, and is not taken where it takes too long."""
    pairs = noisy_pairs(5)

    def best_rank(price: float) -> int:
        found = search(
            make_conv_net(),
            card,
            ["d"],
            pairs[:3],
            pairs[3:],
            RESERVE,
            lambda layer, attributes: price * attributes.rank,
        )
        best = found.kept[0]
        assert best.worth == pytest.approx(best.outcome.strip_db - 100 * DB_PER_PERCENT * price * best.attributes.rank)
        return best.attributes.rank

    assert best_rank(0.0) == 8
    assert best_rank(10.0) == 2


def test_search_tells_what_came_closest(card: ModelCard) -> None:
    """Where the teacher's own answers are the truth, nothing can lie closer to them than they do."""
    model, pairs = make_conv_net(), noisy_pairs(3)
    session = RestorationSession(model, card)
    perfect = [ImagePair(p.name, p.degraded, np.clip(session.restore(p.degraded), 0, 1)) for p in pairs]
    found = search(model, card, ["d"], perfect[:2], perfect[2:], RESERVE)
    assert found.kept == []
    assert found.closest is not None
    assert found.closest.layer == "d"
    assert not RESERVE.accepts(found.closest.outcome)
    assert found.closest.attributes.gain != 1


class MadeUpScan:
    """Promises more the later it is made, and counts its steps: no model is run."""

    made: ClassVar[list[MadeUpScan]] = []

    def __init__(self, candidate: Candidate, reserve: Reserve, *, amplify: bool) -> None:
        self.steps, self.promise = 0, float(len(self.made))
        self.outcome = Compensation(candidate, {}, GOOD)
        self.made.append(self)

    def bench(self, model: onnx.ModelProto, card: ModelCard) -> None:
        pass

    def step(self, *_: object) -> None:
        self.steps += 1

    def best(self) -> Compensation:
        return self.outcome


def test_the_most_promising_scans_are_followed_up(card: ModelCard, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two ranks, up and down: four scans, of which the first promises least."""
    made: list[MadeUpScan] = []
    monkeypatch.setattr(MadeUpScan, "made", made)
    monkeypatch.setattr("kdguard.runtime.compensation.search.Scan", MadeUpScan)
    search(make_conv_net(), card, ["d"], noisy_pairs(1), noisy_pairs(1), RESERVE)
    assert [scan.steps for scan in made] == [1, *[1 + REFINEMENTS] * REFINED]


def test_nothing_to_try_is_an_empty_answer(card: ModelCard) -> None:
    found = search(make_conv_net(), card, ["b"], noisy_pairs(1), noisy_pairs(1), RESERVE)
    assert (found.kept, found.closest) == ([], None)


@pytest.mark.parametrize("role", ["fit", "trial"])
def test_images_that_are_not_finite_are_named(card: ModelCard, role: str) -> None:
    fit, trial = noisy_pairs(2), noisy_pairs(2)
    {"fit": fit, "trial": trial}[role][1].degraded[0, 0] = np.nan
    with pytest.raises(UserError, match="'p1': the clean teacher itself gives NaN"):
        search(make_conv_net(), card, ["d"], fit, trial, RESERVE)
