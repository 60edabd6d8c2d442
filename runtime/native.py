"""Whether a session runs the op's native kernels or the functions inside the file.

Once a native library has registered the domain, onnxruntime does not fall back to the file's functions: a type or a
provider without a kernel makes loading fail. So the library is registered only where it covers everything that the
session will ask for, and everything else runs as it would without it.
"""

from __future__ import annotations

import os
import platform
import stat
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import onnx

from kdguard.export.errors import MissingDependencyError, first_line
from kdguard.export.graph_bodies import nodes_with_bodies
from kdguard.export.onnx_files import default_opset
from kdguard.graph_passes.inventory import hardened_layers
from kdguard.graph_passes.layers import FLOAT_TYPES, infer_value_infos
from kdguard.graph_passes.op.attributes import DOMAIN, PERTURB
from kdguard.graph_passes.op.functions import MIN_OPSET, op_functions
from kdguard.runtime.kernels.build import is_whole, library_path
from kdguard.runtime.kernels.device_library import DeviceLibrary
from kdguard.runtime.terminal import say

if TYPE_CHECKING:
    import onnxruntime

Kernels = Literal["auto", "native", "function"]
MAX_CHANNELS = 512
COVERED_TYPES = ("float32", "float16")


def obstacle(model: onnx.ModelProto, provider: str, library: Path | None = None) -> str:
    """Why the native library cannot run this model on this provider; empty where it can.

    Args:
        provider: as onnxruntime names it.
        library: the one that `make native` builds, where none is given. It is loaded for CUDA, and only then.

    Raises:
        OSError: it cannot be loaded.
    """
    if provider == "CUDAExecutionProvider":
        if reason := _cuda_obstacle(library or library_path()):
            return reason
    elif provider != "CPUExecutionProvider":
        return f"the library has no kernels for {provider}"
    opset = max(default_opset(model), MIN_OPSET)
    exact = op_functions(opset, exact_change=True)
    functions = [f for f in model.functions if f.domain == DOMAIN]
    if reason := _file_obstacle(model, [*op_functions(opset), *exact]):
        return reason
    names = [node.output[0] for node in model.graph.node if node.domain == DOMAIN and node.op_type == PERTURB]
    if len(names) < sum(node.op_type == PERTURB for node in _nodes(model)):
        return "a node lies in the body of another, where its map's type and channels are not known"
    values = infer_value_infos(model)
    sixteen_bits = any(f in exact and f.name == PERTURB for f in functions)
    return next(filter(None, (_layer_obstacle(name, values.get(name), sixteen_bits) for name in names)), "")


def _cuda_obstacle(library: Path) -> str:
    """Why a library's kernels cannot run on this machine's GPU; empty where they can."""
    try:
        missing = DeviceLibrary(library).obstacle()
    except AttributeError:
        return f"{library} was built without CUDA; build it again where nvcc is there"
    return f"its CUDA kernels do not run on this machine: {missing}" if missing else ""


def _file_obstacle(model: onnx.ModelProto, bodies: Sequence[onnx.FunctionProto]) -> str:
    """Why the library must leave a file alone, whatever its maps are; empty where it need not.

    Args:
        bodies: what this version's functions look like.
    """
    if foreign := [f.name for f in model.functions if f.domain == DOMAIN and f not in bodies]:
        return f"the file brings a function {foreign[0]} of its own, which the library would override"
    try:
        layers = hardened_layers(model)
        stray = next((layer.layer for layer in layers if layer.placement == "paired" and not layer.op.shared), None)
    except ValueError as error:
        return f"attributes that the library does not take: {first_line(error)}"
    return f"{stray!r} is restored from a change that its node does not hand out" if stray else ""


def _layer_obstacle(name: str, value: onnx.ValueInfoProto | None, sixteen_bits: bool) -> str:
    """Why one hardened layer is not covered; empty where it is.

    Args:
        sixteen_bits: the file's functions are those that undo themselves exactly in 16 bits. On a float layer they
            leave small elements alone, which our float kernels do not.
    """
    axes = list(value.type.tensor_type.shape.dim) if value else []
    channels = axes[1].dim_value if len(axes) > 1 else 0
    if value is None or not channels:
        return f"the number of channels of {name!r} is not known"
    dtype = FLOAT_TYPES.get(value.type.tensor_type.elem_type, "of another type")
    if dtype not in COVERED_TYPES:
        return f"{name!r} is {dtype}, and the library has kernels for {' and '.join(COVERED_TYPES)}"
    if dtype == "float32" and sixteen_bits:
        return f"{name!r} is float32 in a file whose functions are made for 16 bits"
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
        kernels: `auto` falls back to the functions, `native` insists, `function` does nothing.
        library: to insist on instead of the one that `make native` builds.

    Returns:
        What will run the op: `native`, `function`, or `none` where the model does not hold it.

    Raises:
        MissingDependencyError: `native` was asked for or a library named, and it is not there, does not cover the
            model, or does not fit this onnxruntime.
    """
    if not _nodes(model):
        return "none"
    if kernels == "function":
        return "function"
    try:
        path = library or library_path()
        reason = _distrust(path) if library is None else ""
        if reason and kernels == "auto" and path.is_file():
            say(f"native kernels are left alone: {reason}", "yellow")
        reason = reason or obstacle(model, provider, path)
    except (OSError, RuntimeError) as error:
        reason = f"the library or its folder cannot be looked into: {first_line(error)}"
    if not reason:
        try:
            options.register_custom_ops_library(str(path))
            return "native"
        except Exception as error:  # onnxruntime raises a dozen types without a common public base
            reason = (
                f"{path} cannot be loaded into this onnxruntime on {platform.machine()}: {first_line(error)}; build it "
                "again with python -m kdguard.runtime.kernels.build"
            )
            if kernels == "auto" and library is None:
                say(f"{reason}; the functions in the file are used", "yellow")
    if kernels == "native" or library is not None:
        raise MissingDependencyError(f"no native kernels: {reason}")
    return "function"


def _distrust(path: Path) -> str:
    """Why a library is not loaded although others might: loading runs it. Empty where it may be."""
    if not path.is_file():
        return f"there is no library at {path}; `make native` or python -m kdguard.runtime.kernels.build makes it"
    for place in (path, path.parent):
        status = place.stat()
        if status.st_uid not in (0, os.getuid()) or status.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
            return f"{place} belongs to somebody else or may be written by others"
    if not is_whole(path):
        return f"{path} is not what was built, cut off perhaps; build it again"
    return ""


def _nodes(model: onnx.ModelProto) -> list[onnx.NodeProto]:
    """The op's nodes, those in bodies included."""
    return [node for node in nodes_with_bodies(model.graph.node) if node.domain == DOMAIN]
