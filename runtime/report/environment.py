"""What made a run: command, machine and package versions."""

from __future__ import annotations

import platform
import shlex
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import joblib
from pydantic import BaseModel

PACKAGES = ("kdguard", "torch", "onnx", "onnxruntime-gpu", "onnx-graphsurgeon", "polygraphy", "numpy", "scikit-image")


class Environment(BaseModel):
    """Enough to make the run again."""

    command: str
    python: str
    platform: str
    processor: str = ""
    cores: int
    packages: dict[str, str]


def _installed(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"


def processor() -> str:
    """The CPU's name; its architecture where the system does not tell."""
    information = Path("/proc/cpuinfo")
    lines = information.read_text().splitlines() if information.is_file() else []
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, "") or platform.machine()


def current_environment() -> Environment:
    """This process."""
    return Environment(
        command=shlex.join(["kdguard", *sys.argv[1:]]),
        python=platform.python_version(),
        platform=f"{platform.system()} {platform.machine()}",
        processor=processor(),
        cores=joblib.cpu_count(),
        packages={package: _installed(package) for package in PACKAGES},
    )
