"""Which settings a sweep tries and takes, on made-up results."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest

from kdguard.runtime.red_team import sweep
from kdguard.runtime.red_team.sweep import EXTENSIONS, RATE_STEP, Tuned, tune_and_run
from kdguard.runtime.red_team.trial import Trial, TrialResult
from tests.runtime.red_team.test_training import make_trial

Outcome = dict[str, object]


@pytest.fixture
def tuned(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Tuned]:
    """Runs a sweep of one recipe whose students are told by a function of the trial."""

    def run(outcome: Callable[[Trial], Outcome], rates: Sequence[float], recipe: str = "fitnets") -> Tuned:
        def backend(trials: Sequence[Trial], _: object) -> Iterator[tuple[Trial, TrialResult]]:
            for trial in trials:
                facts = {"psnr": 30.0, "validation_db": 30.0, "diverged": False} | outcome(trial)
                yield (
                    trial,
                    TrialResult(
                        recipe=trial.recipe,
                        source=trial.source,
                        seed=trial.seed,
                        ssim=0.5,
                        parameters=1,
                        curve=[],
                        sample=np.zeros((2, 2, 3), np.float32),
                        learning_rate=trial.learning_rate,
                        weight=trial.weight,
                        batch=trial.options.batch,
                        **facts,  # type: ignore[arg-type]
                    ),
                )

        monkeypatch.setattr(sweep, "get_backend", lambda _: backend)
        template = make_trial(tmp_path, recipe=recipe, learning_rates=list(rates))
        (found,) = tune_and_run([template], 3, "joblib", tmp_path / "trials")
        return found

    return run


def rates_of(results: Sequence[TrialResult]) -> list[float]:
    return [result.learning_rate for result in results]


def test_validation_chooses_and_the_test_images_do_not(tuned: Callable[..., Tuned]) -> None:
    """The rate that validates best has the worst students on the test images."""
    middle = {"validation_db": 31.0, "psnr": 10.0}
    found = tuned(lambda t: middle if t.learning_rate == 2.0 else {"psnr": 50.0}, (1.0, 2.0, 3.0))
    assert rates_of(found.chosen) == [2.0] * 3
    assert {result.seed for result in found.tried} == {0}


def test_the_grid_goes_on_where_the_best_is_at_its_edge(tuned: Callable[..., Tuned]) -> None:
    rising = tuned(lambda t: {"validation_db": t.learning_rate}, (1.0, 2.0))
    assert rates_of(rising.tried) == [1.0, 2.0, *(2.0 * RATE_STEP**n for n in range(1, EXTENSIONS + 1))]
    assert set(rates_of(rising.chosen)) == {2.0 * RATE_STEP**EXTENSIONS}
    falling = tuned(lambda t: {"validation_db": -t.learning_rate}, (1.0, 2.0))
    assert rates_of(falling.tried)[2:] == pytest.approx([RATE_STEP**-n for n in range(1, EXTENSIONS + 1)])
    assert rates_of(tuned(lambda _: {}, (1.0,)).tried) == [1.0]


def test_rates_are_tried_with_the_best_weight(tuned: Callable[..., Tuned]) -> None:
    found = tuned(lambda t: {"validation_db": 30.0 + (t.weight == 0.1)}, (2.0, 1.0, 3.0), "strip")
    assert [(r.weight, r.learning_rate) for r in found.tried] == [(1.0, 2.0), (0.1, 2.0), (0.1, 1.0), (0.1, 3.0)]
    assert {result.weight for result in found.chosen} == {0.1}


def test_equal_settings_leave_the_usual_one(tuned: Callable[..., Tuned]) -> None:
    assert set(rates_of(tuned(lambda _: {}, (2.0, 1.0, 3.0)).chosen)) == {2.0}


def test_a_student_that_diverged_wins_nothing(tuned: Callable[..., Tuned]) -> None:
    lucky = {"validation_db": 99.0, "diverged": True}
    found = tuned(lambda t: lucky if t.learning_rate == 3.0 else {}, (1.0, 2.0, 3.0))
    assert set(rates_of(found.chosen)) == {1.0}


def test_a_seed_that_diverged_is_trained_with_the_next_best(tuned: Callable[..., Tuned]) -> None:
    """One bad seed would else take the whole recipe out of the best response, which only helps the defender."""

    def outcome(trial: Trial) -> Outcome:
        lost = trial.seed == 1 and trial.learning_rate in (2.0, 3.0)
        return {"validation_db": {1.0: 28.0, 2.0: 30.0, 3.0: 29.0}.get(trial.learning_rate, 0.0), "diverged": lost}

    found = tuned(outcome, (1.0, 2.0, 3.0))
    assert rates_of(found.chosen) == [2.0, 1.0, 2.0]
    assert not any(result.diverged for result in found.chosen)
    hopeless = tuned(lambda _: {"diverged": True}, (1.0, 2.0, 3.0))
    assert all(result.diverged for result in hopeless.chosen)
