"""Whether a session runs the op's native kernels or the functions inside the file.

Once a native library has registered the domain, onnxruntime does not fall back to the file's functions: a type or a
provider without a kernel makes loading fail. So the library is registered only where it covers everything that the
session will ask for, and everything else runs as it would without it.
"""

from __future__ import annotations

import platform
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import onnx

from kdguard.export.errors import MissingDependencyError, UserError, first_line
from kdguard.export.graph_bodies import nodes_with_bodies
from kdguard.export.onnx_files import default_opset
from kdguard.graph_passes.layers import FLOAT_TYPES, infer_value_infos
from kdguard.graph_passes.op.attributes import DOMAIN, PERTURB
from kdguard.graph_passes.op.functions import op_functions
from kdguard.runtime.kernels.build import library_path

if TYPE_CHECKING:
    import onnxruntime

Kernels = Literal["auto", "native", "function"]
MAX_CHANNELS = 512
COVERED_TYPES = ("float32", "float16")


def obstacle(model: onnx.ModelProto, provider: str) -> str:
    """Why the native library cannot run this model on this provider; empty where it can.

    Args:
        provider: as onnxruntime names it.
    """
    if provider != "CPUExecutionProvider":
        return f"the library has no kernels for {provider}"
    bodies = [f for exact in (False, True) for f in op_functions(default_opset(model), exact_change=exact)]
    if foreign := [f.name for f in model.functions if f.domain == DOMAIN and f not in bodies]:
        return f"the file brings a function {foreign[0]} of its own, which the library would override"
    names = [node.output[0] for node in model.graph.node if node.domain == DOMAIN and node.op_type == PERTURB]
    if len(names) < sum(node.op_type == PERTURB for node in _nodes(model)):
        return "a node lies in the body of another, where its map's type and channels are not known"
    values = infer_value_infos(model)
    return next(filter(None, (_layer_obstacle(name, values.get(name)) for name in names)), "")


def _layer_obstacle(name: str, value: onnx.ValueInfoProto | None) -> str:
    """Why one hardened layer is not covered; empty where it is."""
    axes = list(value.type.tensor_type.shape.dim) if value else []
    channels = axes[1].dim_value if len(axes) > 1 else 0
    if value is None or not channels:
        return f"the number of channels of {name!r} is not known"
    dtype = FLOAT_TYPES.get(value.type.tensor_type.elem_type, "of another type")
    if dtype not in COVERED_TYPES:
        return f"{name!r} is {dtype}, and the library has kernels for {' and '.join(COVERED_TYPES)}"
    if channels > MAX_CHANNELS:
        return f"{name!r} has {channels} channels, and the library takes up to {MAX_CHANNELS}"
    return ""


def register(
    options: onnxruntime.SessionOptions,
    model: onnx.ModelProto,
    provider: str,
    kernels: Kernels = "auto",
    library: Path | None = None,
) -> str:
    """Register the native library where it is there and covers the model.

    Args:
        options: of the session to be built; changed in place.
        provider: that the session will run on, as onnxruntime names it.
        kernels: `auto` falls back to the functions without a word, `native` insists, `function` does nothing.
        library: to use instead of the one that `make native` builds.

    Returns:
        What will run the op: `native`, `function`, or `none` where the model does not hold it.

    Raises:
        MissingDependencyError: `native` was asked for, and there is no library or it does not cover the model.
        UserError: a library that was named is none, or does not fit this onnxruntime.
    """
    if not _nodes(model):
        return "none"
    if kernels == "function":
        return "function"
    path = library or library_path()
    if path.is_file():
        reason = obstacle(model, provider)
    else:
        reason = f"there is no library at {path}; `make native` or python -m kdguard.runtime.kernels.build makes it"
    if reason:
        if kernels == "native":
            raise MissingDependencyError(f"no native kernels: {reason}")
        return "function"
    try:
        options.register_custom_ops_library(str(path))
    except Exception as error:  # onnxruntime raises a dozen types without a common public base
        raise UserError(
            f"{path} cannot be loaded into this onnxruntime on {platform.machine()}: {first_line(error)}; build it "
            "again with python -m kdguard.runtime.kernels.build, or delete it and the functions in the file are used"
        ) from error
    return "native"


def _nodes(model: onnx.ModelProto) -> list[onnx.NodeProto]:
    """The op's nodes, those in bodies included."""
    return [node for node in nodes_with_bodies(model.graph.node) if node.domain == DOMAIN]
