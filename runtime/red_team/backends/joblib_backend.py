"""This machine's cores, or its GPU."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import joblib
from joblib.externals.loky import get_reusable_executor

if TYPE_CHECKING:
    from kdguard.runtime.red_team.backends import Job
    from kdguard.runtime.red_team.trial import Trial, TrialResult


def run_trials(trials: Sequence[Trial], job: Job) -> Iterator[tuple[Trial, TrialResult]]:
    """One worker process per core, each with one thread; on a GPU one process.

    More threads where fewer trials are left would be faster there and change the last digits of every
    student, so that a sweep that was stopped ended elsewhere than one that was not.
    """
    import torch

    jobs, threads = (1, joblib.cpu_count()) if torch.cuda.is_available() else (joblib.cpu_count(), 1)
    parallel = joblib.Parallel(n_jobs=jobs, return_as="generator_unordered", batch_size=1)
    finished = False
    try:
        yield from parallel(joblib.delayed(_with_trial)(job, trial, threads) for trial in trials)
        finished = True
    finally:
        if not finished:
            # Without this the workers finish what they have before the process may end.
            get_reusable_executor().shutdown(wait=False, kill_workers=True)


def _with_trial(job: Job, trial: Trial, threads: int) -> tuple[Trial, TrialResult]:
    return trial, job(trial, threads)
