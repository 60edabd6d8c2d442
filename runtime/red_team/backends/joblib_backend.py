"""This machine's cores, or its GPU."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING

import joblib
from joblib.externals.loky import get_reusable_executor
from joblib.externals.loky.process_executor import TerminatedWorkerError

from kdguard.export.errors import MissingDependencyError
from kdguard.runtime.red_team.backends import KILLED

if TYPE_CHECKING:
    from kdguard.runtime.red_team.backends import Job
    from kdguard.runtime.red_team.trial import Trial, TrialResult

LOOK_SECONDS = 1.0
"""Between two looks of a worker at whether its parent lives."""


def run_trials(trials: Sequence[Trial], job: Job) -> Iterator[tuple[Trial, TrialResult]]:
    """One worker process per core, each with one thread; on a GPU one process.

    More threads where fewer trials are left would be faster there and change the last digits of every
    student, so that a sweep that was stopped ended elsewhere than one that was not.

    Raises:
        MissingDependencyError: a worker was killed.
    """
    import torch

    jobs, threads = (1, joblib.cpu_count()) if torch.cuda.is_available() else (joblib.cpu_count(), 1)
    watched = {"initializer": _end_with, "initargs": (os.getpid(),)}
    parallel = joblib.Parallel(n_jobs=jobs, return_as="generator_unordered", batch_size=1, **watched)
    finished = False
    try:
        yield from parallel(joblib.delayed(_with_trial)(job, trial, threads) for trial in trials)
        finished = True
    except TerminatedWorkerError as error:
        raise MissingDependencyError(KILLED) from error
    finally:
        if not finished:
            # Without this the workers finish what they have before the process may end.
            # loky stumbles over workers that are gone already, and over a second Ctrl-C while it looks for them.
            with uninterrupted(), suppress(AttributeError, OSError):
                get_reusable_executor().shutdown(wait=False, kill_workers=True)


def _with_trial(job: Job, trial: Trial, threads: int) -> tuple[Trial, TrialResult]:
    return trial, job(trial, threads)


@contextmanager
def uninterrupted() -> Iterator[None]:
    """Ignore Ctrl-C, here and in processes started meanwhile; only the main thread can."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, signal.SIG_DFL if before is None else before)


def _end_with(parent: int) -> None:
    """Let a worker end soon after its parent, which may be killed without a chance to say so.

    Ctrl-C reaches every process of a terminal; ending the workers is the parent's matter.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(LOOK_SECONDS)
        # Nothing is left to tell, and a trial that is being written down appears whole or not at all.
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
