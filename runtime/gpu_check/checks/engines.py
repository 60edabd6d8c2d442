"""Engines of hardened models by TensorRT and TensorRT-RTX: a place for that check, which is not written yet."""

from __future__ import annotations

from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, version

from kdguard.runtime.gpu_check.context import Context
from kdguard.runtime.gpu_check.report import CheckResult

PACKAGES = {"tensorrt": "TensorRT", "tensorrt-rtx": "TensorRT-RTX"}
NAME = "engines"


def check(_: Context) -> Iterator[CheckResult]:
    """Say which packages are there; nothing runs an engine yet."""
    for package, title in PACKAGES.items():
        try:
            reason = f"{title} {version(package)} is installed, and engines are not run by this command"
        except PackageNotFoundError:
            reason = f"{package} is not installed"
        yield CheckResult(NAME, title, "skipped", reason)
