"""The CUDA kernels' source on the CPU under the address and undefined-behaviour sanitizers."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from kdguard.export.errors import MissingDependencyError
from kdguard.runtime.kernels.build import build_kernels_on_cpu, compiler
from tests.conftest import ROOT

CASES = """
import sys
from pathlib import Path
import numpy as np
from kdguard.graph_passes.op import SvdPerturbAttributes
from kdguard.runtime.engines.plugin import shared_bytes
from kdguard.runtime.gpu_check.subjects import VARIANTS, feature_maps, gram_with_gap
from tests.runtime.kernels.kernels_on_cpu import KernelsOnCpu

kernels = KernelsOnCpu(Path(sys.argv[1]))
for channels, rank in [(1, 1), (3, 8), (16, 4), (33, 16)]:
    for shared in (True, False):
        kernels.project_by_blocks(gram_with_gap(channels, rank, 0.1), rank, threads=64, in_shared_memory=shared)
    kernels.project_as_plugin(gram_with_gap(channels, rank, 0.1), rank, shared_bytes(channels, rank))
for name, shape in [("rank 11", (5, 5, 3, 7)), ("pattern", (1, 33, 5, 30)), ("all", (1, 129, 3, 3))]:
    attributes = SvdPerturbAttributes(**{"rank": 4, "gain": 10.0, **VARIANTS[name]})
    kernels.restore(*kernels.perturb(feature_maps(shape), attributes))
    kernels.perturb(feature_maps(shape, np.float16), attributes, 0.5, restorable=False)
kernels.gram(feature_maps((4, 3, 2000)), SvdPerturbAttributes(centred=True, stride=2))
kernels.project(gram_with_gap(100, 2, 0.5), 2)
print("clean")
"""
OVERRUN = """
import ctypes, sys
import numpy as np
library = ctypes.CDLL(sys.argv[1])
gram = np.eye(64, dtype=np.float32)[None]
too_small = np.zeros(8, np.float32)
library.project_by_blocks(*(ctypes.c_void_p(a.ctypes.data) for a in (gram, too_small)), 1, 64, 16, 64, 1)
print("clean")
"""


@pytest.fixture(scope="module")
def sanitized(tmp_path_factory: pytest.TempPathFactory) -> Path:
    try:
        return build_kernels_on_cpu(tmp_path_factory.mktemp("sanitized") / "on_cpu.so", sanitize=True)
    except MissingDependencyError as error:
        pytest.skip(str(error))


def run(code: str, library: Path) -> subprocess.CompletedProcess[str]:
    ask = [compiler(), "-print-file-name=libasan.so"]
    runtime = subprocess.check_output(ask, text=True).strip()
    # Python itself never frees some of what it allocates.
    environment = {**os.environ, "LD_PRELOAD": runtime, "ASAN_OPTIONS": "detect_leaks=0", "PYTHONMALLOC": "malloc"}
    command = [sys.executable, "-c", code, str(library)]
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)


def test_nothing_is_found(sanitized: Path) -> None:
    done = run(CASES, sanitized)
    assert (done.returncode, done.stdout) == (0, "clean\n"), done.stderr[-3000:]


def test_an_overrun_would_be(sanitized: Path) -> None:
    """The sanitizer watches: a buffer of the caller's that is too small is reported."""
    done = run(OVERRUN, sanitized)
    assert done.returncode != 0
    assert "heap-buffer-overflow" in done.stderr
