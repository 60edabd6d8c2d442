"""A Ray cluster: the one that RAY_ADDRESS or a running head names, else one on this machine.

Trials read their arrays from the cache folder, so a cluster of several machines needs it at the same
path on all of them.
"""

from __future__ import annotations

import logging
import os
import signal
import socket
import threading
from collections.abc import Iterator, Sequence
from importlib import import_module
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from kdguard.export.errors import MissingDependencyError, first_line
from kdguard.runtime.red_team.backends import KILLED

if TYPE_CHECKING:
    from kdguard.runtime.red_team.backends import Job
    from kdguard.runtime.red_team.trial import Trial, TrialResult

ADDRESS = "RAY_ADDRESS"
ANSWER_SECONDS = 5.0
"""That a cluster's head has to take up a connection; Ray itself would wait for minutes."""


def run_trials(trials: Sequence[Trial], job: Job) -> Iterator[tuple[Trial, TrialResult]]:
    """One task per trial with one core, and a GPU where the cluster has any.

    Raises:
        MissingDependencyError: Ray is not installed, its cluster cannot be reached, or a worker was killed.
        UserError: as the job raises it.
    """
    try:
        # Through importlib: Ray's own annotations say little, and it is not there in a plain installation.
        ray: Any = import_module("ray")
    except ImportError as error:
        raise MissingDependencyError("--backend ray needs Ray: pip install 'kdguard[ray]'") from error
    ours = not ray.is_initialized()
    if ours:
        _connect(ray)
    try:
        gpus = 1 if ray.cluster_resources().get("GPU") else 0
        # Ray takes functions only, and a job may be a partial.
        task = ray.remote(num_cpus=1, num_gpus=gpus, max_retries=3)(lambda trial: job(trial, 1))
        running = {task.remote(trial): trial for trial in trials}
        while running:
            done, _ = ray.wait(list(running), num_returns=1)
            trial = running.pop(done[0])
            yield trial, _result(ray, done[0])
    finally:
        if ours:
            ray.shutdown()


def _connect(ray: Any) -> None:
    """Join the cluster, or start one here.

    Raises:
        MissingDependencyError: the cluster that RAY_ADDRESS names does not answer.
    """
    address = os.environ.get(ADDRESS, "")
    unreachable = f"no Ray cluster at {ADDRESS}={address}: {{}}; start its head, or unset {ADDRESS} to use this machine"
    # Ray takes SIGTERM for itself, and ours cleans up.
    before = signal.getsignal(signal.SIGTERM)
    try:
        where = urlsplit(address if "://" in address else f"//{address}")
        if where.hostname and where.port:
            socket.create_connection((where.hostname, where.port), ANSWER_SECONDS).close()
        ray.init(logging_level=logging.ERROR, log_to_driver=False, include_dashboard=False)
    except (OSError, ValueError, RuntimeError) as error:
        if not address:
            raise
        why = getattr(error, "strerror", None) or first_line(error)
        raise MissingDependencyError(unreachable.format(why.rstrip("."))) from error
    if threading.current_thread() is threading.main_thread() and before is not None:
        signal.signal(signal.SIGTERM, before)


def _result(ray: Any, task: Any) -> TrialResult:
    """What a finished task gave, or the error that the job raised in it."""
    try:
        result: TrialResult = ray.get(task)
    except ray.exceptions.RayTaskError as error:
        raise error.cause from None
    except ray.exceptions.RayError as error:
        raise MissingDependencyError(KILLED) from error
    return result
