"""Summaries, intervals and the best response, on made-up trials with known answers."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from kdguard.runtime.scoreboard import interval95, summarise
from kdguard.runtime.trial import Source, TrialResult


def trial(recipe: str, source: Source, seed: int, psnr: float, ssim: float = 0.8) -> TrialResult:
    return TrialResult(recipe, source, seed, psnr, ssim, False, 10, [(1, 0.1)], np.zeros((2, 2, 3), np.float32))


TRIALS = [
    *(trial("scratch", "none", s, p) for s, p in enumerate([30.0, 31.0, 32.0])),
    *(trial("output-l1", "clean", s, p) for s, p in enumerate([31.0, 32.0, 33.0])),
    *(trial("output-l1", "hardened", s, p) for s, p in enumerate([30.9, 32.0, 32.8])),
    *(trial("fitnets", "clean", s, p, 0.9) for s, p in enumerate([32.0, 33.0, 34.0])),
    *(trial("fitnets", "hardened", s, p, 0.6) for s, p in enumerate([29.0, 27.0, 31.0])),
]


def test_summary_is_paired_by_seed() -> None:
    summary, best = summarise(TRIALS)
    scratch, output, fitnets = summary
    assert (scratch.tier, scratch.drop_db) == ("control", 0.0)
    assert output.drop_db == pytest.approx(0.1)
    # Drops 3, 6, 3: mean 4, standard deviation sqrt(3), t(0.975, 2) = 4.3027.
    assert fitnets.drop_db == pytest.approx(4.0)
    assert fitnets.drop_ci95 == pytest.approx(4.3027, abs=1e-3)
    assert fitnets.ssim_drop_pct == pytest.approx(100 / 3)
    assert fitnets.clean.psnr == pytest.approx(33.0)
    assert best is not None
    assert (best.clean.recipe, best.hardened.recipe) == ("fitnets", "output-l1")
    assert best.drop_db == pytest.approx(33.0 - 31.9)


def test_the_control_is_a_choice_that_every_attacker_has() -> None:
    """Without it, leaving the output-only recipe out would make any defence look good."""
    _, best = summarise([t for t in TRIALS if t.recipe != "output-l1"])
    assert best is not None
    assert (best.clean.recipe, best.hardened.recipe) == ("fitnets", "scratch")
    assert best.drop_db == pytest.approx(33.0 - 31.0)


def test_a_diverged_student_takes_its_recipe_out_of_the_best_response() -> None:
    spoilt = [dataclasses.replace(t, diverged=t.recipe == "fitnets" and t.seed == 0) for t in TRIALS]
    summary, best = summarise(spoilt)
    assert (summary[2].clean.diverged, summary[2].hardened.diverged) == (1, 1)
    assert best is not None
    assert best.clean.recipe == "output-l1"
    one_side = [dataclasses.replace(t, diverged=(t.recipe, t.source) == ("fitnets", "hardened")) for t in TRIALS]
    _, best = summarise(one_side)
    assert best is not None
    assert (best.clean.recipe, best.hardened.recipe) == ("fitnets", "output-l1")


def test_order_of_trials_does_not_matter() -> None:
    shuffled = [TRIALS[i] for i in (0, 1, 2, 5, 3, 4, 8, 6, 7, 10, 11, 9, 14, 12, 13)]
    assert summarise(shuffled) == summarise(TRIALS)


def test_controls_alone_have_no_best_response() -> None:
    summary, best = summarise(TRIALS[:3])
    assert best is None
    assert summary[0].clean == summary[0].hardened


def test_one_seed_has_no_interval() -> None:
    assert interval95([1.0]) is None
    assert interval95([2.0, 2.0, 2.0]) == 0.0
