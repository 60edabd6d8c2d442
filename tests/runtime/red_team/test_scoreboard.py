"""Summaries, intervals and the best response, on made-up trials with known answers."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np
import pytest

from kdguard.runtime.fidelity import Quality
from kdguard.runtime.recipes.base import Source
from kdguard.runtime.red_team.interval import interval95
from kdguard.runtime.red_team.landmarks import Landmarks
from kdguard.runtime.red_team.options import AttackOptions
from kdguard.runtime.red_team.scoreboard import NotRun, Scoreboard
from kdguard.runtime.red_team.summarise import make_scoreboard
from kdguard.runtime.red_team.sweep import Tuned
from kdguard.runtime.red_team.table import best_response_line
from kdguard.runtime.red_team.trial import TrialResult


def trial(recipe: str, source: Source, seed: int, psnr: float, ssim: float = 0.8) -> TrialResult:
    image = np.zeros((2, 2, 3), np.float32)
    return TrialResult(recipe, source, seed, psnr, ssim, False, 10, [(1, 0.1)], image, pooled_db=psnr - 1)


def landmarks(apart_db: float = 60.0, degraded_db: float = 25.0) -> Landmarks:
    own = Quality(psnr=35.0, ssim=0.9)
    degraded = Quality(psnr=degraded_db, ssim=0.5)
    return Landmarks(degraded=degraded, clean=own, hardened=own, outputs_apart_db=apart_db, failures=[])


def board(trials: Sequence[TrialResult], marks: Landmarks | None = None) -> Scoreboard:
    return make_scoreboard([Tuned(list(trials), [])], [], AttackOptions(), None, 4, None, marks)


TRIALS = [
    *(trial("scratch", "none", s, p) for s, p in enumerate([30.0, 31.0, 32.0])),
    *(trial("output-l1", "clean", s, p) for s, p in enumerate([31.0, 32.0, 33.0])),
    *(trial("output-l1", "hardened", s, p) for s, p in enumerate([30.9, 32.0, 32.8])),
    *(trial("fitnets", "clean", s, p, 0.9) for s, p in enumerate([32.0, 33.0, 34.0])),
    *(trial("fitnets", "hardened", s, p, 0.6) for s, p in enumerate([29.0, 27.0, 31.0])),
]


def test_summary_is_paired_by_seed() -> None:
    summary, best = board(TRIALS).summary, board(TRIALS).best_response
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
    best = board([t for t in TRIALS if t.recipe != "output-l1"]).best_response
    assert best is not None
    assert (best.clean.recipe, best.hardened.recipe) == ("fitnets", "scratch")
    assert best.drop_db == pytest.approx(33.0 - 31.0)


def test_a_diverged_student_takes_its_recipe_out_of_the_best_response() -> None:
    spoilt = [dataclasses.replace(t, diverged=t.recipe == "fitnets" and t.seed == 0) for t in TRIALS]
    summary, best = board(spoilt).summary, board(spoilt).best_response
    assert (summary[2].clean.diverged, summary[2].hardened.diverged) == (1, 1)
    assert best is not None
    assert best.clean.recipe == "output-l1"
    one_side = [dataclasses.replace(t, diverged=(t.recipe, t.source) == ("fitnets", "hardened")) for t in TRIALS]
    best = board(one_side).best_response
    assert best is not None
    assert (best.clean.recipe, best.hardened.recipe) == ("fitnets", "output-l1")


def test_order_of_trials_does_not_matter() -> None:
    shuffled = [TRIALS[i] for i in (0, 1, 2, 5, 3, 4, 8, 6, 7, 10, 11, 9, 14, 12, 13)]
    assert board(shuffled).summary == board(TRIALS).summary
    assert board(shuffled).best_response == board(TRIALS).best_response


def test_controls_alone_have_no_best_response() -> None:
    summary = board(TRIALS[:3]).summary
    assert board(TRIALS[:3]).best_response is None
    assert summary[0].clean == summary[0].hardened


def test_one_seed_has_no_interval() -> None:
    assert interval95([1.0]) is None
    assert interval95([2.0, 2.0, 2.0]) == 0.0


def test_the_best_response_has_an_interval_paired_by_seed() -> None:
    best = board(TRIALS).best_response
    assert best is not None
    # 32 - 30.9, 33 - 32, 34 - 32.8.
    assert best.drop_db == pytest.approx(1.1)
    assert best.drop_ci95 == pytest.approx(4.3027 * 0.1 / np.sqrt(3), abs=1e-3)


def test_what_only_the_clean_teacher_gives_is_a_response_to_neither() -> None:
    """On one side alone it would be a drop that no defence caused."""
    asking_clean = [trial("same-budget", "clean", s, 40.0) for s in range(3)]
    best = board([*TRIALS, *asking_clean]).best_response
    assert best is not None
    assert (best.clean.recipe, best.hardened.recipe) == ("fitnets", "output-l1")
    entry = board([*TRIALS, *asking_clean]).summary[-1]
    assert (entry.tier, entry.drop_db, entry.clean) == ("control", 0.0, entry.hardened)


@pytest.mark.parametrize(("recipe", "source"), [("authorised", "clean"), ("keyed-answers", "hardened")])
def test_a_key_holder_is_no_thief(recipe: str, source: Source) -> None:
    """His students are on both sides the same, and neither the best response nor help that is left."""
    holder = [trial(recipe, source, s, 40.0 + s) for s in range(3)]
    alone = board(holder)
    assert alone.best_response is None
    assert "only controls and key holders ran" in best_response_line(alone)
    found = board([*TRIALS, *holder])
    assert found.best_response == board(TRIALS).best_response
    assert found.help_left is None
    entry = found.summary[-1]
    assert (entry.tier, entry.compared, entry.drop_db, entry.clean) == ("T3", False, 0.0, entry.hardened)
    assert all(entry.compared for entry in found.summary[1:-1])


def test_help_left_is_the_best_with_ground_truth_less_scratch() -> None:
    assert board(TRIALS).help_left is None  # none of these recipes uses ground truth
    helped = [trial("output+gt", "hardened", s, p) for s, p in enumerate([30.5, 31.5, 32.5])]
    helped += [trial("output+gt", "clean", s, 50.0) for s in range(3)]
    # Better from the clean teacher, and of no more use where only the hardened one is to be had.
    helped += [trial("dukd", "clean", s, 60.0) for s in range(3)]
    helped += [trial("dukd", "hardened", s, 29.0) for s in range(3)]
    left = board([*TRIALS, *helped]).help_left
    assert left is not None
    assert (left.recipe, left.gain_ci95) == ("output+gt", 0.0)
    assert left.gain_db == pytest.approx(0.5)
    # What the clean teacher gives by that recipe: 50 where scratch has 30, 31 and 32.
    assert left.clean_gain_db == pytest.approx(19.0)
    assert left.clean_gain_ci95 == pytest.approx(4.3027 / np.sqrt(3), abs=1e-3)
    assert board([t for t in [*TRIALS, *helped] if t.recipe != "scratch"]).help_left is None


def test_output_only_recipes_have_a_bound() -> None:
    bounds = {entry.recipe: entry.bound_db for entry in board(TRIALS, landmarks(apart_db=51.0)).summary}
    # 51 dB apart, a student whose pooled error lies at 31 dB: errors 1:10, so at most a factor 1.1.
    assert bounds["output-l1"] == pytest.approx(20 * np.log10(1.1))
    assert bounds["scratch"] is bounds["fitnets"] is None


def test_recipes_that_did_not_run_are_named() -> None:
    missing = NotRun(recipe="fsp", tier="T1", reason="because")
    made = make_scoreboard([Tuned(TRIALS, [])], [missing], AttackOptions(), "d", 4)
    assert made.not_run == [missing]


def test_equal_students_on_both_sides_are_no_comparison() -> None:
    different = board(TRIALS).best_response
    assert different is not None
    assert not different.same_students
    scratch = [trial("scratch", "none", s, 50.0 + s) for s in range(3)]
    made = board([*scratch, *(t for t in TRIALS if t.recipe != "scratch")])
    assert made.best_response is not None
    assert made.best_response.same_students
    assert "the same students" in best_response_line(made)
