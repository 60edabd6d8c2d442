"""Sweeps: stopped ones go on, nothing is run twice, and a Ray cluster gives the same students."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest

from kdguard.runtime.recipes.output_l1 import OutputL1
from kdguard.runtime.red_team import sweep
from kdguard.runtime.red_team.ledger import Ledger
from kdguard.runtime.red_team.sweep import tune_and_run
from kdguard.runtime.red_team.trial import Trial, TrialResult, run_trial
from tests.runtime.red_team.test_training import make_trial, running_out


def templates(folder: Path, steps: int = 5) -> list[Trial]:
    return [
        make_trial(folder, steps=steps, recipe=recipe, learning_rates=[5e-3, 1e-3])
        for recipe in ("output-l1", "scratch")
    ]


def without_images(results: list[sweep.Tuned]) -> list[object]:
    return [[(r.recipe, r.seed, r.learning_rate, r.psnr, r.curve) for r in group.chosen] for group in results]


def test_a_ledger_gives_back_what_it_got(tmp_path: Path) -> None:
    trial = make_trial(tmp_path, steps=4, recipe="output-l1")
    result, ledger = run_trial(trial, 1), Ledger(tmp_path / "trials")
    assert ledger.find(trial) is None
    ledger.keep(trial, result)
    found = ledger.find(trial)
    assert isinstance(found, TrialResult)
    np.testing.assert_array_equal(found.sample, result.sample)
    assert found.__dict__ | {"sample": None} == result.__dict__ | {"sample": None}


@pytest.mark.parametrize(
    "change", [{"dropped_since": 1}, {"psnr": None, "curve": [[1]]}, {"curve": [1]}, {"curve": None}], ids=str
)
def test_an_entry_of_another_form_counts_as_none(tmp_path: Path, change: dict[str, object]) -> None:
    trial = make_trial(tmp_path, steps=1, recipe="output-l1")
    ledger = Ledger(tmp_path / "trials")
    ledger.keep(trial, run_trial(trial, 1))
    (path,) = (tmp_path / "trials").iterdir()
    with np.load(path) as entry:
        facts, sample = json.loads(str(entry["facts"])), entry["sample"]
    np.savez(path, facts=json.dumps(facts | change), sample=sample)
    assert ledger.find(trial) is None


def test_a_student_that_was_never_scored_is_kept_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Minus infinity has no place in JSON."""
    monkeypatch.setattr(OutputL1, "loss", lambda _self, step: step.restoration.output.sum() * float("nan"))
    trial = make_trial(tmp_path, recipe="output-l1")
    ledger = Ledger(tmp_path / "trials")
    ledger.keep(trial, run_trial(trial, 1))
    found = ledger.find(trial)
    assert found is not None
    assert found.diverged
    assert found.validation_db == -np.inf


def test_finished_trials_are_not_run_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = tune_and_run(templates(tmp_path), 2, "joblib", tmp_path / "trials")
    kept = {path: path.stat().st_mtime_ns for path in (tmp_path / "trials").iterdir()}
    # All that were tried at seed 0, and one at seed 1.
    assert len(kept) == sum(len(group.tried) + 1 for group in first)

    def refuse(*_: object) -> None:
        raise AssertionError("run again")

    monkeypatch.setattr(sweep, "get_backend", refuse)
    again = tune_and_run(templates(tmp_path), 2, "joblib", tmp_path / "trials")
    assert without_images(again) == without_images(first)
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "trials").iterdir()} == kept


def test_recipes_that_train_alike_share_their_students(tmp_path: Path) -> None:
    """On the same answers: `strip` and `pre-tap` differ in what they ask, and here they ask for the same."""
    names = ("strip", "pre-tap", "fitnets-standardised", "skeptical")
    trials = [make_trial(tmp_path, steps=5, recipe=recipe, learning_rates=[5e-3]) for recipe in names]
    tuned = tune_and_run(trials, 2, "joblib", tmp_path / "trials")
    students = {(g.chosen[0].recipe == "skeptical", r.weight, r.seed) for g in tuned for r in [*g.chosen, *g.tried]}
    assert len(list((tmp_path / "trials").iterdir())) == len(students)
    strip, pre_tap, _, skeptical = ([result.psnr for result in group.chosen] for group in tuned)
    assert strip == pre_tap != skeptical
    for name, group in zip(names, tuned, strict=True):
        assert {result.recipe for result in [*group.chosen, *group.tried]} == {name}
    assert without_images(tune_and_run(trials, 2, "joblib", tmp_path / "trials")) == without_images(tuned)


def one_by_one(trials: Sequence[Trial], job: Callable[..., TrialResult]) -> Iterator[tuple[Trial, TrialResult]]:
    yield from ((trial, job(trial, 1)) for trial in trials)


def test_smaller_batches_are_told_of(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sweep, "get_backend", lambda _: one_by_one)
    monkeypatch.setattr(OutputL1, "loss", running_out(2))
    trials = [make_trial(tmp_path, steps=1, recipe=recipe, batch=8) for recipe in ("output-l1", "scratch")]
    tune_and_run(trials, 1, "joblib", tmp_path / "trials")
    lines = {line for line in capsys.readouterr().out.splitlines() if "memory ran out" in line}
    assert lines == {"output-l1: memory ran out; its students were trained with 2 crops per step"}


SWEEP = """
import sys
from pathlib import Path
sys.path.insert(0, sys.argv[1])
from tests.runtime.red_team.test_sweep import templates
from kdguard.runtime.red_team.sweep import tune_and_run

if __name__ == "__main__":
    tune_and_run(templates(Path(sys.argv[2]), steps=200), 2, "joblib", Path(sys.argv[2]) / "trials")
"""


def test_a_killed_sweep_goes_on_where_it_was(tmp_path: Path) -> None:
    """A real process, killed with its workers after its first trials; nothing finished is run again or lost."""
    script, trials = tmp_path / "sweep.py", tmp_path / "trials"
    script.write_text(SWEEP)
    root = str(Path(__file__).parents[3])
    command = [sys.executable, str(script), root, str(tmp_path)]
    process = subprocess.Popen(command, start_new_session=True, stderr=subprocess.DEVNULL)
    try:
        deadline = time.monotonic() + 120
        while not list(trials.glob("*.npz")):
            assert process.poll() is None, "the sweep ended before it could be killed"
            assert time.monotonic() < deadline
            time.sleep(0.02)
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    kept = {path: path.stat().st_mtime_ns for path in trials.glob("*.npz")}
    assert kept
    tuned = tune_and_run(templates(tmp_path, steps=200), 2, "joblib", trials)
    after = {path: path.stat().st_mtime_ns for path in trials.glob("*.npz")}
    assert len(kept) < len(after) == sum(len(group.tried) + 1 for group in tuned)
    assert {path: after[path] for path in kept} == kept
    whole = tune_and_run(templates(tmp_path, steps=200), 2, "joblib", tmp_path / "fresh")
    assert without_images(tuned) == without_images(whole)


def test_a_real_ray_instance_gives_the_same_students(tmp_path: Path) -> None:
    pytest.importorskip("ray", reason="the ray extra is not installed")
    by_ray = tune_and_run(templates(tmp_path), 2, "ray", tmp_path / "ray")
    by_joblib = tune_and_run(templates(tmp_path), 2, "joblib", tmp_path / "joblib")
    assert len(list((tmp_path / "ray").glob("*.npz"))) == sum(len(group.tried) + 1 for group in by_ray)
    for ours, theirs in zip(without_images(by_ray), without_images(by_joblib), strict=True):
        assert [entry[:3] for entry in ours] == [entry[:3] for entry in theirs]  # type: ignore[attr-defined]
        np.testing.assert_allclose([e[3] for e in ours], [e[3] for e in theirs], atol=1e-3)  # type: ignore[attr-defined]
