"""What runs trials, one file each: a function from trials to results in the order they finish."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Protocol

from kdguard.runtime.red_team.options import Backend
from kdguard.runtime.red_team.trial import Trial, TrialResult

Job = Callable[[Trial, int], TrialResult]
"""Runs one trial with so many threads; it travels to other processes, so it is a function of a module."""


class Runner(Protocol):
    """Runs trials side by side."""

    def __call__(self, trials: Sequence[Trial], job: Job) -> Iterator[tuple[Trial, TrialResult]]:
        """Yield every trial with its result as it finishes."""


KILLED = (
    "a process that trains students was killed, most likely because memory ran out; free some, or take smaller "
    "students: with the same --cache the attack goes on where it stopped"
)
"""For the user, where a worker is gone without a word."""


def get_backend(name: Backend) -> Runner:
    """Look a backend up.

    Raises:
        MissingDependencyError: its package is not installed.
    """
    backends: dict[Backend, Callable[[], Runner]] = {"joblib": _joblib, "ray": _ray}
    return backends[name]()


def _joblib() -> Runner:
    from kdguard.runtime.red_team.backends.joblib_backend import run_trials

    return run_trials


def _ray() -> Runner:
    from kdguard.runtime.red_team.backends.ray_backend import run_trials

    return run_trials
