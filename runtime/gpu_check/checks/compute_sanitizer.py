"""The kernels under compute-sanitizer: accesses out of bounds, and races in shared memory."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from kdguard.runtime.gpu_check.context import Context, Skipped
from kdguard.runtime.gpu_check.report import CheckResult
from kdguard.runtime.kernels.build import nvcc_name

TOOLS = ("memcheck", "racecheck")
PROGRAM = "compute-sanitizer"
FOUND = 86
"""Exit code where the tool has found something; the program itself ends with others."""
NAME = "compute-sanitizer"


def check(context: Context) -> Iterator[CheckResult]:
    """Run the small checks of kernels and projector once with each tool."""
    sanitizer = shutil.which(PROGRAM) or shutil.which(PROGRAM, path=_folder_of_nvcc())
    if sanitizer is None:
        raise Skipped(f"{PROGRAM} is not installed; it comes with the CUDA toolkit")
    for tool in TOOLS:
        yield _run(context, sanitizer, tool)


def _folder_of_nvcc() -> str:
    nvcc = shutil.which(nvcc_name())
    return str(Path(nvcc).resolve().parent) if nvcc else ""


def _run(context: Context, sanitizer: str, tool: str) -> CheckResult:
    program = [sys.executable, "-m", "kdguard.runtime.gpu_check", "--library", str(context.library.path), "--small"]
    program += ["--in-process", "--only", "kernels", "projector", "--out", str(context.folder / f"{tool}.json")]
    command = [sanitizer, "--tool", tool, "--error-exitcode", str(FOUND), *program]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)  # noqa: S603
    what = f"{tool} over small runs of kernels and projector"
    if done.returncode == 0:
        return CheckResult(NAME, what, "passed")
    said = [line for line in (done.stdout + done.stderr).splitlines() if line.startswith("=========")] or ["nothing"]
    if done.returncode == FOUND:
        return CheckResult(NAME, what, "failed", " / ".join(said[1:6]) or said[0])
    return CheckResult(NAME, what, "failed", f"exit code {done.returncode}; the tool said {' / '.join(said[-3:])}")
