"""`TopKProjector` as a TensorRT plugin: its compiled kernel goes into the engine, which needs no Python to run it.

Written against TensorRT's documentation and the checks in its Python package; it has not been run.

An ahead-of-time plugin is one launch of one kernel without a workspace, so the matrices must fit into the shared memory
that every GPU gives without being asked. TensorRT evaluates the expressions below when it knows the shapes.
"""
# Not `from __future__ import annotations`: tensorrt.plugin reads the annotations of what is registered.

from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from kdguard.graph_passes.op.attributes import PLUGIN_NAMESPACE, PROJECTOR

PLUGIN_ID = f"{PLUGIN_NAMESPACE}::{PROJECTOR}"
KERNEL = "kdguard_plugin_top_k_projector"
SHARED_LIMIT = 48 * 1024
THREADS = 256

Count = TypeVar("Count", int, Any)
"""A number, or TensorRT's expression for one."""


def shared_bytes(channels: Count, rank: int) -> Count:
    """Dynamic shared memory of a block, as runtime/kernels/plugin.cu counts it."""
    row = (channels + 15) // 16 * 16
    return (row * row * 2 + row * (2 * rank + 2) + 32) * 4


def fits(channels: int, rank: int) -> bool:
    """Whether the kernel can work on a map of so many channels."""
    return shared_bytes(channels, rank) <= SHARED_LIMIT


def available() -> bool:
    """Whether the installed TensorRT takes such plugins; from 10.9 on it should."""
    import tensorrt.plugin as trtp

    return hasattr(trtp, "KernelLaunchParams")


def register(ptx: str) -> None:
    """Make TensorRT's parser find the plugin, in this process.

    Args:
        ptx: of runtime/kernels/plugin.cu.
    """
    import tensorrt.plugin as trtp

    def describe(G: trtp.TensorDesc, rank: NDArray[np.int32]) -> trtp.TensorDesc:
        U = G.like()
        U.shape_expr = trtp.ShapeExprs.from_tuple((G.shape_expr[0], G.shape_expr[1], int(np.ravel(rank)[0])))
        return U

    def combinations(G: trtp.TensorDesc, outputs: tuple[trtp.TensorDesc]) -> list[trtp.AutoTuneCombination]:
        return [trtp.AutoTuneCombination("FP32, FP32", "LINEAR")]

    def launch(
        G: trtp.TensorDesc, rank: NDArray[np.int32], outputs: tuple[trtp.TensorDesc], tactic: int
    ) -> tuple[str, str, trtp.KernelLaunchParams, trtp.SymExprs]:
        vectors = int(np.ravel(rank)[0])
        images, channels = G.shape_expr[0], G.shape_expr[1]
        shape = trtp.KernelLaunchParams(grid_x=images, block_x=THREADS, shared_mem=shared_bytes(channels, vectors))
        scalars = trtp.SymIntExprs(2)
        scalars[0], scalars[1] = trtp.SymInt32(channels), trtp.SymInt32(vectors)
        return KERNEL, ptx, shape, scalars

    trtp.register(PLUGIN_ID)(describe)
    trtp.autotune(PLUGIN_ID)(combinations)
    trtp.aot_impl(PLUGIN_ID)(launch)
