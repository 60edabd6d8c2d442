"""The restoration tasks kdguard knows, one file each. See CONTRIBUTING.md to add one."""

from __future__ import annotations

from kdguard.export.errors import UserError
from kdguard.export.tasks.base import Image, Task
from kdguard.export.tasks.dehazing import Dehazing
from kdguard.export.tasks.denoising import Denoising
from kdguard.export.tasks.deraining import Deraining
from kdguard.export.tasks.low_light import LowLight
from kdguard.export.tasks.super_resolution import SuperResolution
from kdguard.export.tasks.underwater import Underwater

TASKS: dict[str, Task] = {
    task.name: task
    for task in (
        SuperResolution(),
        LowLight(),
        Underwater(),
        Dehazing(),
        Deraining(),
        Denoising(),
    )
}


def get_task(name: str | None) -> Task:
    """Look a task up by its command-line name.

    Raises:
        UserError: no task of that name, or None: a card that does not say.
    """
    if name is None:
        raise UserError("the model does not say what it restores; say it with --task")
    if name not in TASKS:
        raise UserError(f"unknown task {name!r}: choose one of {', '.join(TASKS)}")
    return TASKS[name]


__all__ = ["TASKS", "Image", "Task", "get_task"]
