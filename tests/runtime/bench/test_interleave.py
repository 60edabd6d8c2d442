"""Turns and medians, by a clock that only the subjects move."""

from __future__ import annotations

import numpy as np
import pytest

from kdguard.runtime.bench.interleave import Call, interleave, median_interval, paired_ratios
from kdguard.runtime.bench.results import Ratio, Timing


class Workshop:
    """Subjects that take as long as they say, and what ran when."""

    def __init__(self) -> None:
        self.now = 0.0
        self.ran: list[str] = []

    def subject(self, name: str, *seconds: float) -> Call:
        """The first run takes the first time, and so on; the last one stays."""

        def run() -> None:
            self.now += seconds[min(self.ran.count(name), len(seconds) - 1)]
            self.ran.append(name)

        return Call(name, run)

    def clock(self) -> float:
        return self.now


def test_every_round_runs_each_once_in_changing_order() -> None:
    shop = Workshop()
    subjects = [shop.subject(name, seconds) for name, seconds in (("a", 1.0), ("b", 2.0), ("c", 3.0))]
    rounds = []
    found = interleave(subjects, 20, clock=shop.clock, advance=lambda: rounds.append(len(shop.ran)))
    assert found == {"a": [1.0] * 20, "b": [2.0] * 20, "c": [3.0] * 20}
    assert rounds == [6 + 3 * done for done in range(1, 21)]
    orders = {tuple(shop.ran[start : start + 3]) for start in range(6, 66, 3)}
    assert all(sorted(order) == ["a", "b", "c"] for order in orders)
    assert len(orders) > 3


def test_same_seed_same_order() -> None:
    ran = []
    for seed in (0, 0, 1):
        shop = Workshop()
        interleave([shop.subject(name, 1.0) for name in "abc"], 10, seed=seed, clock=shop.clock)
        ran.append(shop.ran)
    assert ran[0] == ran[1] != ran[2]


def test_warming_up_is_not_counted() -> None:
    shop = Workshop()
    found = interleave([shop.subject("a", 9.0, 5.0, 1.0)], 3, clock=shop.clock)
    assert found == {"a": [1.0, 1.0, 1.0]}


def test_the_slow_run_in_the_first_rounds_only() -> None:
    shop = Workshop()
    subjects = [shop.subject(name, seconds) for name, seconds in (("fast", 0.1), ("slow", 4.0), ("slowest", 60.0))]
    found = interleave(subjects, 15, seconds=10.0, clock=shop.clock)
    assert {name: len(values) for name, values in found.items()} == {"fast": 15, "slow": 2, "slowest": 1}
    assert shop.ran.count("slowest") == 2  # it warms up once
    assert len(paired_ratios(found["slow"], found["fast"])) == 2


def test_interval_of_the_median() -> None:
    assert median_interval([1.0] * 5) is None
    assert median_interval([2.0] * 6) == (2.0, 2.0)
    rng = np.random.default_rng(0)
    covered = 0
    for _ in range(200):
        low, high = median_interval(rng.exponential(size=21).tolist())  # type: ignore[misc]
        covered += low <= np.log(2) <= high
    assert 0.9 < covered / 200 <= 0.99


def test_what_slows_both_down_does_not_move_the_ratio() -> None:
    drift = np.geomspace(1, 8, 11)
    ratio = Ratio.of((1.1 * drift).tolist(), drift.tolist())
    assert ratio.n == 11
    assert ratio.median == pytest.approx(1.1)
    assert ratio.ci95 == pytest.approx((1.1, 1.1))
    timing = Timing.of(drift.tolist())
    assert timing.median_ms == pytest.approx(1000 * np.sqrt(8))
    assert timing.ci95_ms is not None
    assert timing.ci95_ms[0] < timing.median_ms < timing.ci95_ms[1]
