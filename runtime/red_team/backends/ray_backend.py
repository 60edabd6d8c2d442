"""A Ray cluster: the one that RAY_ADDRESS or a running head names, else one on this machine.

Trials read their arrays from the cache folder, so a cluster of several machines needs it at the same
path on all of them.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from importlib import import_module
from typing import TYPE_CHECKING, Any

from kdguard.export.errors import MissingDependencyError

if TYPE_CHECKING:
    from kdguard.runtime.red_team.backends import Job
    from kdguard.runtime.red_team.trial import Trial, TrialResult


def run_trials(trials: Sequence[Trial], job: Job) -> Iterator[tuple[Trial, TrialResult]]:
    """One task per trial with one core, and a GPU where the cluster has any.

    Raises:
        MissingDependencyError: Ray is not installed.
    """
    try:
        # Through importlib: Ray's own annotations say little, and it is not there in a plain installation.
        ray: Any = import_module("ray")
    except ImportError as error:
        raise MissingDependencyError("--backend ray needs Ray: pip install 'kdguard[ray]'") from error
    ours = not ray.is_initialized()
    if ours:
        ray.init(logging_level=logging.ERROR, log_to_driver=False, include_dashboard=False)
    try:
        gpus = 1 if ray.cluster_resources().get("GPU") else 0
        # Ray takes functions only, and a job may be a partial.
        task = ray.remote(num_cpus=1, num_gpus=gpus, max_retries=3)(lambda trial: job(trial, 1))
        running = {task.remote(trial): trial for trial in trials}
        while running:
            done, _ = ray.wait(list(running), num_returns=1)
            trial = running.pop(done[0])
            yield trial, ray.get(done[0])
    finally:
        if ours:
            ray.shutdown()
