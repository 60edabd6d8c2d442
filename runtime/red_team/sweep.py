"""Many trials: those that the ledger has are not run again, and choices are made by validation only."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from kdguard.runtime.recipes import get_recipe
from kdguard.runtime.red_team.backends import get_backend
from kdguard.runtime.red_team.ledger import Ledger
from kdguard.runtime.red_team.options import Backend
from kdguard.runtime.red_team.trial import Trial, TrialResult, run_trial
from kdguard.runtime.terminal import progress_bar, say


@dataclass(frozen=True)
class Tuned:
    """The students of one recipe from one source.

    Attributes:
        chosen: one per seed, all with the same learning rate and feature weight.
        tried: seed 0 with every setting that was tried, the chosen one included.
    """

    chosen: list[TrialResult]
    tried: list[TrialResult]


def run_and_keep(trial: Trial, threads: int, ledger: Path) -> TrialResult:
    """Run a trial and write it down where it ran, so that whoever is killed later has lost nothing."""
    result = run_trial(trial, threads)
    Ledger(ledger).keep(trial, result)
    return result


def tune_and_run(templates: Sequence[Trial], seeds: int, backend: Backend, ledger: Path) -> list[Tuned]:
    """Choose feature weight, then learning rate, per template by validation at seed 0; then run the other seeds.

    Args:
        templates: one trial per recipe and source; rate, weight and seed are filled in here.
        ledger: folder of finished trials.
    """
    run = partial(_run, backend=backend, ledger=ledger)
    rates = templates[0].options.learning_rates
    tried: dict[Trial, list[Trial]] = {template: [] for template in templates}
    results: dict[Trial, TrialResult] = {}

    def attempt(variants: Callable[[Trial], Iterable[Trial]], description: str) -> None:
        for template in templates:
            tried[template] += [trial for trial in variants(template) if trial not in tried[template]]
        results.update(run([t for trials in tried.values() for t in trials if t not in results], description))

    def best(template: Trial) -> Trial:
        # max keeps the first of equals: the first rate and weight are the usual ones.
        return max(tried[template], key=lambda trial: results[trial].validation_db)

    # Weights first, at the usual rate: a rate that is best for a misleading term is none for the student without it.
    first = {t: replace(t, seed=0, learning_rate=rates[0]) for t in templates}
    attempt(lambda t: (replace(first[t], weight=weight) for weight in _weights(t)), "choosing feature weights")
    leaders = {template: best(template) for template in templates}
    attempt(lambda t: (replace(leaders[t], learning_rate=rate) for rate in rates), "choosing learning rates")
    settings = {template: best(template) for template in templates}
    chosen = {t: [replace(settings[t], seed=seed) for seed in range(seeds)] for t in templates}
    further = [trial for trials in chosen.values() for trial in trials if trial not in results]
    results.update(run(further, "training students"))
    return [
        Tuned([results[t] for t in chosen[template]], [results[t] for t in tried[template]]) for template in templates
    ]


def _weights(template: Trial) -> tuple[float, ...]:
    return get_recipe(template.recipe).weights


def _run(trials: Sequence[Trial], description: str, *, backend: Backend, ledger: Path) -> dict[Trial, TrialResult]:
    """Results of all trials, those from the ledger included."""
    book = Ledger(ledger)
    results = {trial: found for trial in trials if (found := book.find(trial)) is not None}
    missing = [trial for trial in trials if trial not in results]
    if not missing:
        return results
    with progress_bar(description, len(trials)) as advance:
        for _ in results:
            advance()
        with closing(get_backend(backend)(missing, partial(run_and_keep, ledger=ledger))) as finished:  # type: ignore[type-var]
            for trial, result in finished:
                results[trial] = result
                advance()
    _say_where_memory_ran_out(results)
    return results


def _say_where_memory_ran_out(results: dict[Trial, TrialResult]) -> None:
    halved = sorted({(t.recipe, r.batch) for t, r in results.items() if r.batch < t.options.batch})
    for recipe, batch in halved:
        say(f"{recipe}: memory ran out; its students were trained with {batch} crops per step", "yellow")
