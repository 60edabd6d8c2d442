"""Which gains a scan spends its runs on, with made-up left-overs and outcomes: no model is run."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import pytest

from kdguard.graph_passes.op import SvdPerturbAttributes
from kdguard.runtime.compensation.bench import Outcome
from kdguard.runtime.compensation.candidate import Candidate
from kdguard.runtime.compensation.reserve import Reserve
from kdguard.runtime.compensation.scan import Scan
from kdguard.runtime.compensation.statistics import Refit

GOOD = Outcome(0.0, 60.0, 60.0, 100.0, 0.0, 0.0, 5.0)
REFUSED = replace(GOOD, margin_db=14.5)
"""3 dB short on the trial images: the error may be half as large."""


class MadeUp(Candidate):
    """What a refit leaves over is a function of the gain."""

    left_over: Callable[[float], float] = staticmethod(lambda excess: excess**2)

    def refits(self, excess: float) -> dict[str, Refit]:
        return {"y": Refit(np.zeros(1), np.zeros(1), self.left_over(excess), excess**2)}


class Peaked(MadeUp):
    """Stronger gains than 2 leave less over."""

    left_over = staticmethod(lambda excess: excess if excess < 2 else 0.01)


@dataclass
class Bench:
    """Gives the same answer at every gain, and remembers which were asked for."""

    answer: Outcome
    asked: list[float] = field(default_factory=list)

    def try_gain(self, excess: float, *_: Any) -> Outcome:
        self.asked.append(excess)
        return replace(self.answer, excess=excess)


def gains_tried(kind: type[MadeUp], answer: Outcome, *, amplify: bool, steps: int = 4) -> list[float]:
    scan = Scan(kind("d", SvdPerturbAttributes(), (), ()), Reserve(0.1), amplify=amplify)
    bench = Bench(answer)
    for _ in range(steps):
        scan.step(bench, [], [])  # type: ignore[arg-type]
    return bench.asked


@pytest.mark.parametrize("answer", [GOOD, REFUSED])
def test_a_scan_stays_on_its_side_of_gain_1(answer: Outcome) -> None:
    up, down = (gains_tried(MadeUp, answer, amplify=amplify) for amplify in (True, False))
    assert len(up) == len(down) == 4
    assert min(up) > 0 > max(down)


def test_room_is_used_to_go_farther() -> None:
    first, second, *_ = gains_tried(MadeUp, GOOD, amplify=True)
    assert second == 6.0 > first


def test_after_a_refusal_only_weaker_gains_are_tried() -> None:
    """Even where the closed form promises less left over at a stronger one: it knows the readers, not the output."""
    tried = gains_tried(Peaked, REFUSED, amplify=True)
    assert tried == sorted(tried, reverse=True)
    assert len(tried) > 1
