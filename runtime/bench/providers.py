"""Which execution providers can be benched on this machine."""

from __future__ import annotations

from collections.abc import Sequence

from onnx import TensorProto, helper

from kdguard.export.errors import MissingDependencyError
from kdguard.runtime.bench.options import ProviderName
from kdguard.runtime.gpu import has_gpu
from kdguard.runtime.inference import build_session


def default_providers() -> tuple[ProviderName, ...]:
    """The CPU, and CUDA where there is a GPU."""
    return ("cpu", "cuda") if has_gpu() else ("cpu",)


def split_by_presence(names: Sequence[ProviderName]) -> tuple[list[ProviderName], dict[str, str]]:
    """Those that run here, each once, and why the others do not.

    Raises:
        MissingDependencyError: none does.
    """
    reasons = {name: _obstacle(name) for name in names}
    lacking: dict[str, str] = {name: reason for name, reason in reasons.items() if reason}
    present = [name for name in reasons if name not in lacking]
    if not present:
        reasons_given = "; ".join(f"{name}: {reason}" for name, reason in lacking.items())
        raise MissingDependencyError(f"no provider to time on: {reasons_given}; add cpu to the providers")
    return present, lacking


def _obstacle(name: ProviderName) -> str:
    """Why a provider does not run here; empty where it does. Found by running one node on it."""
    value = [helper.make_tensor_value_info(side, TensorProto.FLOAT, [1]) for side in ("X", "Y")]
    graph = helper.make_graph([helper.make_node("Neg", ["X"], ["Y"])], "probe", value[:1], value[1:])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 15)], ir_version=8)
    try:
        build_session(model, name, threads=1)
    except MissingDependencyError:
        return "onnxruntime does not run it here; it takes a GPU, and the CUDA libraries that onnxruntime-gpu needs"
    return ""
