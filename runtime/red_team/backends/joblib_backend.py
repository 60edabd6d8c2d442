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
    """Worker processes whose threads add up to the cores: two torch processes that share cores crawl."""
    jobs, threads = _share_cores(len(trials))
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


def _share_cores(trials: int) -> tuple[int, int]:
    """Worker processes, and threads in each."""
    import torch

    if torch.cuda.is_available():
        return 1, joblib.cpu_count()
    jobs = max(1, min(joblib.cpu_count(), trials))
    return jobs, max(1, joblib.cpu_count() // jobs)
