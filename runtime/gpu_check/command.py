"""Exit code 0: something ran and nothing failed; 1 otherwise; 2 a wrong option or file; 3 no GPU, no nvcc, no NumPy."""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from kdguard.export.errors import MissingDependencyError, UserError
from kdguard.export.files import check_writable
from kdguard.runtime.gpu import has_gpu
from kdguard.runtime.gpu_check.context import Context
from kdguard.runtime.gpu_check.run import NAMES, run_apart, run_here
from kdguard.runtime.kernels.build import build_cuda_kernels, has_nvcc
from kdguard.runtime.kernels.device_library import DeviceLibrary


def main(arguments: Sequence[str] | None = None) -> int:
    """Build, check, time, write the report."""
    parser = argparse.ArgumentParser(prog="gpu-check", description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("gpu-check.json"), help="the report to write")
    parser.add_argument("--only", nargs="+", choices=NAMES, default=(), metavar="NAME", help=", ".join(NAMES))
    parser.add_argument("--small", action="store_true", help="few and small maps, as for a sanitizer")
    parser.add_argument("--library", type=Path, help="kernels that are built already")
    parser.add_argument(
        "--in-process", action="store_true", help="not each in a process of its own: for sanitizers and debuggers"
    )
    given = parser.parse_args(arguments)
    try:
        check_writable(given.out)
        with tempfile.TemporaryDirectory(prefix="kdguard-") as folder:
            library = _library(given.library, Path(folder))
            context = Context(library, Path(folder), given.small)
            if given.in_process:
                report = run_here(context, given.only, keep=lambda found: found.write(given.out))
            else:
                report = run_apart(context, given.only)
        report.write(given.out)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    verdict = "passed" if report.passed else "FAILED"
    print(f"{verdict}; {given.out.absolute()}")
    return int(not report.passed)


def _library(path: Path | None, folder: Path) -> DeviceLibrary:
    """The kernels for this machine's GPU.

    Raises:
        MissingDependencyError: there is no GPU, no nvcc, or kernels do not run on this GPU.
        UserError: nvcc refuses the sources, or the library named is none.
    """
    if path is None:
        if not has_gpu():
            raise MissingDependencyError(
                "gpu-check needs an NVIDIA GPU, and this machine has none; run it where one is"
            )
        if not has_nvcc():
            raise MissingDependencyError("gpu-check needs nvcc, which is not on the PATH; install the CUDA toolkit")
        path = build_cuda_kernels(folder / "kernels.so", ["native"])
    try:
        library = DeviceLibrary(path.absolute())
    except (OSError, AttributeError) as error:
        raise UserError(f"{path} is no build of the kernels: {error}") from error
    if missing := library.obstacle():
        raise MissingDependencyError(f"gpu-check needs a GPU that runs the kernels: {missing}")
    return library
