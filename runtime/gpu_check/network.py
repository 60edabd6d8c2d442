"""A small convolutional network, and onnxruntime sessions for it. Needs onnxruntime-gpu and kdguard's dependencies."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal

import numpy as np

from kdguard.runtime.gpu_check.context import Skipped, needed
from kdguard.runtime.kernels.build import build_library

Placement = Literal["paired", "in-path"]
PLACEMENTS: tuple[Placement, ...] = ("paired", "in-path")
CUDA, CPU = "CUDAExecutionProvider", "CPUExecutionProvider"
TAP, IN_PATH_TAP = "relu_1", "relu_2"
GAINS: dict[Placement, float] = {"paired": 10.0, "in-path": 1.5}


def small_network(dtype: str, width: int, depth: int) -> Any:
    """An ONNX model `image` [n, 3, h, w] -> `restored`: `depth` 3x3 convolutions of `width` channels with ReLUs."""
    needed("onnx", "pydantic", "onnx_graphsurgeon")
    import onnx
    from onnx import helper, numpy_helper

    rng = np.random.default_rng(0)
    nodes, weights, last = [], [], "image"
    widths = [3, *[width] * depth, 3]
    for index, (into, out) in enumerate(pairwise(widths)):
        values = rng.standard_normal((out, into, 3, 3)) * np.sqrt(2 / (9 * into))
        weights.append(numpy_helper.from_array(values.astype(dtype), f"weights_{index}"))
        convolved = "residue" if index == depth else f"conv_{index}"
        nodes.append(helper.make_node("Conv", [last, f"weights_{index}"], [convolved], pads=[1, 1, 1, 1]))
        if index < depth:
            last = f"relu_{index}"
            nodes.append(helper.make_node("Relu", [convolved], [last]))
    nodes.append(helper.make_node("Add", ["image", "residue"], ["restored"]))
    element = helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
    ends = [helper.make_tensor_value_info(name, element, ["n", 3, "h", "w"]) for name in ("image", "restored")]
    graph = helper.make_graph(nodes, "network", ends[:1], ends[1:], weights)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    onnx.checker.check_model(model)
    return model


def hardened_network(model: Any, placement: Placement, *, exposed: bool = True) -> Any:
    """The model with the op behind one ReLU.

    Args:
        exposed: the perturbed map is a further output.
    """
    return _hardened(model, {TAP: placement}, [TAP] if exposed else [])


def hardened_twice(model: Any) -> Any:
    """The model with a paired node and, behind it, one in the path; both perturbed maps are further outputs."""
    return _hardened(model, {TAP: "paired", IN_PATH_TAP: "in-path"}, [TAP, IN_PATH_TAP])


def _hardened(model: Any, placements: Mapping[str, Placement], exposed: Sequence[str]) -> Any:
    from kdguard.graph_passes.insert_svd_perturb import InsertSvdPerturb, Site
    from kdguard.graph_passes.layers import infer_value_infos
    from kdguard.graph_passes.op import SvdPerturbAttributes

    sites = [
        Site(layer, SvdPerturbAttributes(rank=4, gain=GAINS[placement]), placement)
        for layer, placement in placements.items()
    ]
    hardened = InsertSvdPerturb(sites=sites)(model).model
    types = infer_value_infos(hardened)
    hardened.graph.output.extend(types[layer] for layer in exposed)
    return hardened


def output_error(found: np.ndarray, expected: np.ndarray, sixteen_bits: bool) -> float:
    """How far an output lies from what is expected: the largest error, of the largest value.

    Args:
        sixteen_bits: of the maps. Then root mean squares instead: a paired node leaves alone what could not be taken
            back exactly, and next to zero the last bit of an element decides about that.
    """
    away, scale = found.astype(np.float64) - expected.astype(np.float64), expected.astype(np.float64)
    if sixteen_bits:
        return float(np.linalg.norm(away) / np.linalg.norm(scale))
    return float(np.abs(away).max() / np.abs(scale).max())


def build_native_library(folder: Path) -> Path:
    """The custom-op library for this machine's GPU, once it is known that onnxruntime runs there at all.

    Raises:
        Skipped: onnxruntime is not installed, or its CUDA provider does not start.
    """
    (onnxruntime,) = needed("onnxruntime")
    onnxruntime.set_default_logger_severity(4)
    if CUDA not in onnxruntime.get_available_providers():
        raise Skipped("the installed onnxruntime has no CUDA provider; onnxruntime-gpu has")
    cuda_session(small_network("float32", width=4, depth=1), "cuda", None)
    return build_library(folder / "libkdguard_onnxruntime.so", ["native"])


def cuda_session(model: Any, provider: Literal["cpu", "cuda"], library: Path | None, *, tf32: bool = False) -> Any:
    """An onnxruntime session that runs where it says.

    Args:
        library: to run the op by; None runs the functions in the file.
        tf32: let convolutions and products round to TF32, as onnxruntime does unless it is told otherwise.

    Raises:
        Skipped: CUDA does not start in this onnxruntime.
        MissingDependencyError: the library does not cover the model.
    """
    import onnxruntime

    from kdguard.runtime.native import register

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    if library is not None:
        register(options, model, CUDA, "native", library)
    wanted: list[Any] = [CPU] if provider == "cpu" else [(CUDA, {"use_tf32": str(int(tf32))}), CPU]
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=wanted)
    if provider == "cuda" and session.get_providers()[0] != CUDA:
        raise Skipped("CUDA does not start in this onnxruntime; does it find the libraries that it wants?")
    return session
