"""What checks and timings get to work with."""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kdguard.runtime.kernels.device_library import DeviceLibrary


@dataclass(frozen=True)
class Context:
    """The kernels, and how much work to do with them.

    Attributes:
        library: kernels and their host side, as `build_cuda_kernels` or `build_kernels_on_cpu` makes them.
        folder: for files that last as long as the run.
        small: little work, for a sanitizer or a CPU that runs the kernels thread by thread.
    """

    library: DeviceLibrary
    folder: Path
    small: bool = False


class Skipped(Exception):  # noqa: N818  # not an error
    """This machine lacks what a check needs; the message says what."""


def needed(*packages: str) -> list[Any]:
    """Import packages that a check needs.

    Raises:
        Skipped: one is not installed, or does not import.
    """
    found = []
    for package in packages:
        try:
            found.append(importlib.import_module(package))
        except ImportError as error:
            raise Skipped(f"{package} cannot be imported: {error}") from error
    return found


def cuda_torch() -> Any:
    """torch, where it runs on this GPU.

    Raises:
        Skipped: it is not installed, or does not.
    """
    (torch,) = needed("torch")
    if not torch.cuda.is_available():
        raise Skipped("the installed torch has no CUDA, or does not find the GPU")
    return torch
