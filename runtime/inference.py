"""Building onnxruntime sessions: the provider that really runs, and refusals in one line."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Literal, NamedTuple

import numpy as np
import onnx

from kdguard.export.errors import MissingDependencyError, UserError, first_line
from kdguard.export.graph_bodies import nodes_with_bodies
from kdguard.export.large_models import for_runtime
from kdguard.runtime.gpu import has_gpu
from kdguard.runtime.native import Kernels, register

if TYPE_CHECKING:
    import onnxruntime

Provider = Literal["auto", "cpu", "cuda"]
_PROVIDERS = {"cpu": "CPUExecutionProvider", "cuda": "CUDAExecutionProvider"}
_STANDARD_DOMAINS = ("", "ai.onnx", "ai.onnx.ml", "ai.onnx.training", "ai.onnx.preview.training")
_NO_KERNEL = "NOT_IMPLEMENTED"


class BuiltSession(NamedTuple):
    """An onnxruntime session, and what runs the op in it: `native`, `function`, or `none` where there is no op."""

    session: onnxruntime.InferenceSession
    kernels: str


def build_session(
    model: onnx.ModelProto,
    provider: Provider,
    threads: int,
    kernels: Kernels = "auto",
    profile: Path | None = None,
) -> BuiltSession:
    """An onnxruntime session.

    Args:
        provider: `auto` takes CUDA where it works and the CPU elsewhere.
        threads: intra-op threads; 0 lets onnxruntime decide.
        kernels: what runs the op, see `native`.
        profile: start of the name under which onnxruntime writes what every node took.

    Raises:
        UserError: onnxruntime refuses the model, or the native library.
        MissingDependencyError: CUDA was asked for by name and does not run here, this machine's
            provider has no kernel for one of the model's operators in its type, or native kernels were
            asked for by name and are not there.
    """
    import onnxruntime

    # Failures reach the user as one line of ours, not as three of the log's.
    onnxruntime.set_default_logger_severity(4)
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.intra_op_num_threads = threads
    # Sessions take turns here, clean teacher and hardened model above all. Threads that spin while they wait
    # for their session's next turn take the cores from the one whose turn it is.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    if profile is not None:
        options.enable_profiling = True
        options.profile_file_prefix = str(profile)
    wanted = [_PROVIDERS["cuda"], _PROVIDERS["cpu"]] if provider != "cpu" else [_PROVIDERS["cpu"]]
    # The GPU wheel lists CUDA on machines without a GPU and then falls back without a word, so
    # availability says nothing; only the built session does (`get_providers`).
    if provider == "auto" and not has_gpu():
        wanted = [_PROVIDERS["cpu"]]
    chosen = register(options, model, wanted[0], kernels)
    model, folder = for_runtime(model)
    if folder is not None:
        options.add_session_config_entry("session.model_external_initializers_file_folder_path", str(folder))
        # Weights stay mapped from their files; prepacking would copy them.
        options.add_session_config_entry("session.disable_prepacking", "1")
    try:
        session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=wanted)
    except Exception as error:  # onnxruntime raises a dozen types without a common public base
        raise _refusal(model, error) from error
    if provider == "cuda" and session.get_providers()[0] != _PROVIDERS["cuda"]:
        raise MissingDependencyError(
            f"CUDA was asked for and onnxruntime fell back to {session.get_providers()[0]}; use --provider cpu, or a "
            "machine with a GPU and the CUDA libraries that onnxruntime-gpu needs"
        )
    return BuiltSession(session, chosen)


def numpy_type(onnx_type: str) -> type:
    """The NumPy type of a tensor type as onnxruntime names it, e.g. `tensor(float16)`."""
    return {
        "tensor(float16)": np.float16,
        "tensor(double)": np.float64,
        "tensor(int64)": np.int64,
        "tensor(int32)": np.int32,
        "tensor(uint8)": np.uint8,
        "tensor(bool)": np.bool_,
    }.get(onnx_type, np.float32)


def _refusal(model: onnx.ModelProto, error: Exception) -> UserError:
    """What to tell the user about a model that onnxruntime does not take."""
    if unknown := _unknown_operators(model):
        return UserError(
            f"onnxruntime cannot run the model: it has no operator {', '.join(unknown)}, and the file brings no "
            "function of that name; export the model with standard operators, or harden it unmeasured, by "
            "`kdguard harden` without `--data` and `--task`"
        )
    if _NO_KERNEL in str(error):
        return MissingDependencyError(
            f"onnxruntime cannot run the model on this machine: {first_line(error)}; measure it where a kernel for its "
            "types is (bfloat16 mostly needs a GPU), here it can only be hardened, by `kdguard harden` without `--data`"
        )
    return UserError(f"onnxruntime refuses the model: {first_line(error)}")


def _unknown_operators(model: onnx.ModelProto) -> list[str]:
    """Operators of foreign domains that neither onnxruntime nor the model defines."""
    from onnxruntime.capi.onnxruntime_pybind11_state import get_all_operator_schema

    known = {(schema.domain, schema.name) for schema in get_all_operator_schema()}
    known |= {(function.domain, function.name) for function in model.functions}
    nodes = [*model.graph.node, *(node for function in model.functions for node in function.node)]
    used = {(node.domain, node.op_type) for node in nodes_with_bodies(nodes) if node.domain not in _STANDARD_DOMAINS}
    return [f"{domain}::{name}" for domain, name in sorted(used - known)]
