"""A library with CUDA kernels on a machine that cannot run them: it is compiled, loads, and serves the CPU."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnxruntime
import pytest
from onnx import TensorProto

from kdguard.export.errors import MissingDependencyError
from kdguard.graph_passes.op import SvdPerturbAttributes
from kdguard.graph_passes.op.reference import svd_perturb
from kdguard.runtime.gpu_check.subjects import feature_maps, worst
from kdguard.runtime.kernels.build import build_cuda_kernels, build_library, gpus_of_nvcc, has_nvcc
from kdguard.runtime.kernels.device_library import DeviceLibrary
from kdguard.runtime.native import obstacle, register
from tests.runtime.test_native import CUDA, HARDENED, op_session


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """For one architecture, as code that a driver would compile: the whole list takes a minute."""
    if not has_nvcc():
        pytest.skip("there is no nvcc")
    return build_library(tmp_path_factory.mktemp("cuda") / "library.so", ["compute_90"])


def test_serves_the_cpu(library: Path) -> None:
    attributes = SvdPerturbAttributes(rank=4, gain=10.0)
    maps = feature_maps((1, 12, 9, 9))
    found, _ = op_session(attributes, TensorProto.FLOAT, 4, library).run(None, {"X": maps})
    assert worst(found, svd_perturb(maps, attributes), maps.shape) < 1e-5


def test_says_why_it_does_not_serve_cuda(library: Path) -> None:
    missing = DeviceLibrary(library).obstacle()
    if not missing:
        pytest.skip("this machine has a GPU: see make gpu-check")
    assert obstacle(HARDENED, CUDA, library) == f"its CUDA kernels do not run on this machine: {missing}"
    with pytest.raises(MissingDependencyError, match="no native kernels: its CUDA kernels do not run on this machine"):
        register(onnxruntime.SessionOptions(), HARDENED, CUDA, library=library)


def test_runs_where_onnxruntime_falls_back(library: Path) -> None:
    """It does so without a word where CUDA does not start, and then takes our kernels for the CPU."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.register_custom_ops_library(str(library))
    session = onnxruntime.InferenceSession(
        HARDENED.SerializeToString(), options, providers=[CUDA, "CPUExecutionProvider"]
    )
    image = np.zeros((1, 3, 16, 16), np.float32)
    assert np.isfinite(session.run(None, {session.get_inputs()[0].name: image})[0]).all()


def test_asks_nvcc_which_gpus_it_knows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An older one must not make the whole build fail, and what it knows best is for newer GPUs too."""
    old = tmp_path / "old-nvcc"
    old.write_text("#!/bin/sh\nprintf 'sm_52\\nsm_75\\nsm_86\\n'\n")
    old.chmod(0o700)
    monkeypatch.setenv("NVCC", str(old))
    assert gpus_of_nvcc() == ("sm_75", "sm_86", "compute_86")
    monkeypatch.setenv("NVCC", "nvcc-of-nowhere")
    assert gpus_of_nvcc() == ()


def test_without_nvcc(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NVCC", "nvcc-of-nowhere")
    with pytest.raises(MissingDependencyError, match="'nvcc-of-nowhere', which is not there; install the CUDA toolkit"):
        build_cuda_kernels(tmp_path / "kernels.so", ["native"])
