"""Looking for the gain of one candidate that costs a stripper most and keeps every gate."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx

from kdguard.export.image_pairs import ImagePair
from kdguard.export.model_card import ModelCard
from kdguard.runtime.compensation.bench import Baseline, Outcome, TrialBench
from kdguard.runtime.compensation.candidate import Candidate, Compensation
from kdguard.runtime.compensation.reserve import Reserve

GRID = tuple(float(f"{value:.3g}") for value in (*(-np.geomspace(0.08, 0.95, 12)), *np.geomspace(0.08, 6.0, 12)))
FIRST_TRIAL = 0.35
"""Logarithm of the gain that is tried first, up or down."""
WORTHWHILE_DB = 0.3
"""A compensated node that costs a stripper less than this is not worth its time."""


class Scan:
    """Scan, then refine, the gain of one candidate in one direction.

    What the refit leaves over at a gain is known in closed form; what it does to the output follows
    from one run and the ratio of the two. So every run calibrates, and the next one is spent where
    the prediction puts the edge of what is acceptable.
    """

    def __init__(self, candidate: Candidate, reserve: Reserve, *, amplify: bool) -> None:
        self.candidate = candidate
        self._reserve = reserve
        self._amplify = amplify
        grid = [excess for excess in GRID if (excess > 0) == amplify]
        self._refits = {excess: candidate.refits(excess) for excess in grid}
        self._left_over = {e: max(r.left_over for r in refits.values()) for e, refits in self._refits.items()}
        self._stripped = {e: min(r.stripped for r in refits.values()) for e, refits in self._refits.items()}
        self._next: float | None = min(grid, key=lambda e: abs(abs(np.log1p(e)) - FIRST_TRIAL))
        self.tried: dict[float, Outcome] = {}
        self.promise = np.inf

    def bench(self, model: onnx.ModelProto, card: ModelCard) -> TrialBench:
        """What `step` runs on. Not kept here: every session holds as much memory as it ever needed."""
        candidate = self.candidate
        return TrialBench(model, card, candidate.layer, candidate.attributes, candidate.readers, amplify=self._amplify)

    def step(self, bench: TrialBench, pairs: Sequence[ImagePair], clean: Sequence[Baseline]) -> None:
        """Try the next gain, if there is one."""
        if self._next is None:
            return
        excess = self._next
        outcome = bench.try_gain(excess, self._refits[excess], pairs, clean)
        self.tried[excess] = outcome
        allowed = self._left_over[excess] * self._reserve.on_trial(outcome)
        inside = [e for e in self._left_over if self._left_over[e] <= allowed and e not in self.tried]
        if not self._reserve.accepts(outcome):
            inside = [e for e in inside if abs(np.log1p(e)) < abs(np.log1p(excess))]
        self._next = max(inside, key=lambda e: abs(np.log1p(e)), default=None)
        error = max(10 ** (outcome.strip_db / 10) - 1, 1e-6)
        grown = self._stripped[self._next] / max(self._stripped[excess], 1e-300) if self._next is not None else 0.0
        known = max((o.strip_db for o in self.acceptable()), default=0.0)
        self.promise = max(known, 10 * float(np.log10(1 + error * grown)))

    def acceptable(self) -> list[Outcome]:
        """The trials that kept their distance from every gate."""
        return [outcome for outcome in self.tried.values() if self._reserve.accepts(outcome)]

    def closest(self) -> Compensation:
        """The trial with the most room, which may be less than none."""
        outcome = max(self.tried.values(), key=self._reserve.on_trial)
        return Compensation(self.candidate, self._refits[outcome.excess], outcome)

    def best(self) -> Compensation | None:
        """The acceptable trial that costs a stripper most."""
        outcome = max(self.acceptable(), key=lambda outcome: outcome.strip_db, default=None)
        if outcome is None or outcome.strip_db < WORTHWHILE_DB:
            return None
        return Compensation(self.candidate, self._refits[outcome.excess], outcome)
