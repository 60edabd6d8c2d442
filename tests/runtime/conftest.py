"""The CUDA kernels as a CPU runs them, compiled once for all tests."""

from __future__ import annotations

import pytest

from kdguard.export.errors import MissingDependencyError
from kdguard.runtime.kernels.build import build_kernels_on_cpu
from tests.runtime.kernels.kernels_on_cpu import KernelsOnCpu


@pytest.fixture(scope="session")
def kernels(tmp_path_factory: pytest.TempPathFactory) -> KernelsOnCpu:
    try:
        return KernelsOnCpu(build_kernels_on_cpu(tmp_path_factory.mktemp("kernels") / "on_cpu.so", onnxruntime=True))
    except MissingDependencyError as error:
        pytest.skip(str(error))
