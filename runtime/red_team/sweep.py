"""Many trials: those that the ledger has are not run again, and choices are made by validation only."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
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

EXTENSIONS = 2
"""How often a rate beyond the listed ones is tried, where the best so far is the highest or the lowest."""

RATE_STEP = 2.4


@dataclass(frozen=True)
class Tuned:
    """The students of one recipe from one source.

    Attributes:
        chosen: one per seed, with the learning rate and feature weight that did best at seed 0; a seed
            that diverged with these, with the next best.
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

    Settings whose student diverged come last, and a seed that diverged is trained again with the next best.

    Args:
        templates: one trial per recipe and source; rate, weight and seed are filled in here.
        ledger: folder of finished trials.
    """
    sweep = _Sweep(templates, partial(_run, backend=backend, ledger=ledger))
    sweep.tune(templates[0].options.learning_rates)
    chosen = sweep.train(seeds)
    return [
        Tuned([sweep.results[t] for t in chosen[template]], [sweep.results[t] for t in sweep.tried[template]])
        for template in templates
    ]


class _Sweep:
    """What was tried per template, and what came of it.

    Attributes:
        tried: trials of seed 0, in the order of their trying.
        results: of all trials so far.
    """

    def __init__(
        self, templates: Sequence[Trial], run: Callable[[Sequence[Trial], str], dict[Trial, TrialResult]]
    ) -> None:
        self._run = run
        self.tried: dict[Trial, list[Trial]] = {template: [] for template in templates}
        self.results: dict[Trial, TrialResult] = {}

    def tune(self, rates: Sequence[float]) -> None:
        """Try feature weights, then the rates, then rates beyond."""
        # Weights first, at the usual rate: one that is best for a misleading term is none for the student without it.
        first = {t: replace(t, seed=0, learning_rate=rates[0]) for t in self.tried}
        self._attempt(lambda t: [replace(first[t], weight=weight) for weight in _weights(t)], "students of seed 0")
        leaders = {template: self._ranked(template)[0] for template in self.tried}
        self._attempt(lambda t: [replace(leaders[t], learning_rate=rate) for rate in rates], "choosing learning rates")
        for _ in range(EXTENSIONS):
            self._attempt(lambda t: _beyond(self._ranked(t)[0], self.tried[t]), "learning rates beyond the list")

    def train(self, seeds: int) -> dict[Trial, list[Trial]]:
        """Students of every seed with the best setting; those that diverge again with the next best."""
        settings = {template: self._ranked(template) for template in self.tried}
        chosen = {t: [replace(ranking[0], seed=seed) for seed in range(seeds)] for t, ranking in settings.items()}
        self._finish(chosen, "the other seeds")
        for rank in range(1, max(len(ranking) for ranking in settings.values())):
            for template, trials in chosen.items():
                chosen[template] = [_next_best(trial, self.results, settings[template], rank) for trial in trials]
            self._finish(chosen, "instead of diverged students")
        return chosen

    def _attempt(self, variants: Callable[[Trial], Iterable[Trial]], description: str) -> None:
        for template, trials in self.tried.items():
            trials += [trial for trial in variants(template) if trial not in trials]
        self._finish(self.tried, description)

    def _finish(self, groups: Mapping[Trial, Sequence[Trial]], description: str) -> None:
        missing = [trial for trials in groups.values() for trial in trials if trial not in self.results]
        if missing:
            self.results.update(self._run(missing, description))

    def _ranked(self, template: Trial) -> list[Trial]:
        # Sorting is stable, so the first of equals leads: the first rate and weight are the usual ones.
        return sorted(self.tried[template], key=lambda t: (self.results[t].diverged, -self.results[t].validation_db))


def _beyond(best: Trial, tried: Sequence[Trial]) -> list[Trial]:
    """The best setting with a rate beyond all that were tried with it, if it has the highest or the lowest."""
    rates = [trial.learning_rate for trial in tried if trial.weight == best.weight]
    if len(rates) < 2:
        # Whoever gives one rate wants that one.
        return []
    if best.learning_rate == max(rates):
        return [replace(best, learning_rate=best.learning_rate * RATE_STEP)]
    if best.learning_rate == min(rates):
        return [replace(best, learning_rate=best.learning_rate / RATE_STEP)]
    return []


def _next_best(trial: Trial, results: Mapping[Trial, TrialResult], settings: Sequence[Trial], rank: int) -> Trial:
    """The trial, or where it diverged the same seed with the setting of that rank."""
    if not results[trial].diverged or rank >= len(settings) or results[settings[rank]].diverged:
        return trial
    return replace(settings[rank], seed=trial.seed)


def _weights(template: Trial) -> tuple[float, ...]:
    return get_recipe(template.recipe).weights


def _run(trials: Sequence[Trial], description: str, *, backend: Backend, ledger: Path) -> dict[Trial, TrialResult]:
    """Results of all trials, those from the ledger included."""
    book = Ledger(ledger)
    results = {trial: found for trial in trials if (found := book.find(trial)) is not None}
    missing = [trial for trial in trials if trial not in results]
    # Students that several recipes share are trained once.
    first: dict[str, Trial] = {}
    for trial in missing:
        first.setdefault(trial.key, trial)
    if results:
        say(f"{description}: {len(results)} of {len(trials)} were finished before")
    if missing:
        found_by_key: dict[str, TrialResult] = {}
        with progress_bar(description, len(results) + len(first)) as advance:
            for _ in results:
                advance()
            job = partial(run_and_keep, ledger=ledger)
            with closing(get_backend(backend)([*first.values()], job)) as finished:  # type: ignore[type-var]
                for trial, result in finished:
                    found_by_key[trial.key] = result
                    advance()
        results.update({trial: replace(found_by_key[trial.key], recipe=trial.recipe) for trial in missing})
    _say_where_memory_ran_out(results)
    return results


def _say_where_memory_ran_out(results: dict[Trial, TrialResult]) -> None:
    halved = sorted({(t.recipe, r.batch) for t, r in results.items() if r.batch < t.options.batch})
    for recipe, batch in halved:
        say(f"{recipe}: memory ran out; its students were trained with {batch} crops per step", "yellow")
