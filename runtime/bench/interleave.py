"""Timing by turns in one process, and what such samples say: medians, and ratios of runs of the same round."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

WARM_UPS = 2
MIN_ROUNDS = 6
"""Even the whole range of five values covers their median in 94 of 100 cases only: fewer have no 95 % interval."""
RESAMPLES = 2000


class Timed(Protocol):
    """Whatever can be timed: a session of a model, of an engine, or a plain call."""

    @property
    def name(self) -> str:
        """Of its samples."""
        ...

    def run(self) -> object:
        """Do the work once, and return when it is done, on a GPU too."""
        ...


@dataclass(frozen=True)
class Call:
    """A function without arguments."""

    name: str
    run: Callable[[], object]


def interleave(
    subjects: Sequence[Timed],
    rounds: int,
    *,
    seconds: float = float("inf"),
    seed: int = 0,
    advance: Callable[[], None] = lambda: None,
    clock: Callable[[], float] = time.perf_counter,
) -> dict[str, list[float]]:
    """Time subjects in turns, so that whatever else the machine does meets all of them alike.

    Every round runs each subject once, in an order shuffled anew, since one may leave the caches as the next one likes
    them. Rounds to warm up come first.

    Args:
        rounds: at most.
        seconds: for all rounds of one subject. One whose last warm-up says that it takes longer runs in the first few
            rounds only, in one at least; where a single run takes longer it is warmed up once.
        advance: called after every round.
        clock: tells seconds.

    Returns:
        Seconds per run by subject; the i-th value is of the i-th round.
    """
    rng = np.random.default_rng(seed)
    samples: dict[str, list[float]] = {subject.name: [] for subject in subjects}

    def spend(subject: Timed) -> float:
        started = clock()
        subject.run()
        return clock() - started

    expected: dict[str, float] = {}
    for _ in range(WARM_UPS):
        expected |= {s.name: spend(s) for s in subjects if expected.get(s.name, 0.0) < seconds}
    for done in range(rounds):
        for index in rng.permutation(len(subjects)):
            subject = subjects[index]
            if done == 0 or (done + 1) * expected[subject.name] <= seconds:
                samples[subject.name].append(spend(subject))
        advance()
    return samples


def median_interval(values: Sequence[float]) -> tuple[float, float] | None:
    """95 % confidence interval of the median: percentile bootstrap, 2000 resamples, seeded.

    Percentiles, not the bias-corrected kinds: those rest on the jackknife, which fails for medians (Efron and
    Tibshirani, An Introduction to the Bootstrap, 1993, section 11.6).

    Returns:
        None for fewer than six values.
    """
    if len(values) < MIN_ROUNDS:
        return None
    from scipy import stats

    rng = np.random.default_rng(0)
    found = stats.bootstrap((values,), np.median, n_resamples=RESAMPLES, method="percentile", random_state=rng)
    low, high = found.confidence_interval
    return float(low), float(high)


def paired_ratios(samples: Sequence[float], over: Sequence[float]) -> list[float]:
    """One subject's time over another's, round by round, for the rounds in which both ran."""
    return [mine / other for mine, other in zip(samples, over, strict=False)]
