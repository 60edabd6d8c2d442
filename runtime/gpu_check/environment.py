"""What machine this is, asked without any package."""

from __future__ import annotations

import platform
import shutil
import subprocess
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version

from kdguard.runtime.gpu_check.report import Environment
from kdguard.runtime.kernels.build import SOURCES, fingerprint, has_nvcc, nvcc_name
from kdguard.runtime.kernels.device_library import DeviceLibrary

PACKAGES = ("numpy", "torch", "onnx", "onnxruntime-gpu", "onnxruntime", "tensorrt", "tensorrt-rtx", "kdguard")


def describe_environment(library: DeviceLibrary) -> Environment:
    """Machine, compilers, packages, and which sources the kernels were built from."""
    return Environment(
        time=datetime.now(UTC).isoformat(timespec="seconds"),
        platform=platform.platform(),
        python=platform.python_version(),
        gpu=library.describe(),
        driver=_answer("nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"),
        nvcc=_answer(nvcc_name(), "--version") if has_nvcc() else "",
        commit=_answer("git", "-C", str(SOURCES.resolve()), "describe", "--always", "--dirty", "--abbrev=40"),
        kernels=fingerprint(),
        packages={name: found for name in PACKAGES if (found := _version(name))},
    )


def _answer(*command: str) -> str:
    """Last line of what a program says; empty where there is no such program or it fails."""
    if shutil.which(command[0]) is None:
        return ""
    done = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603  # names of our own
    lines = done.stdout.strip().splitlines()
    return lines[-1] if lines and done.returncode == 0 else ""


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return ""
