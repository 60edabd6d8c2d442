"""Engines of the small network, by the vendors whose packages are installed. Needs kdguard's dependencies as well."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kdguard.runtime.engines import EngineKind
from kdguard.runtime.gpu import compute_capability
from kdguard.runtime.gpu_check.context import Skipped, needed

if TYPE_CHECKING:
    from kdguard.runtime.engines.prepare import Precision
    from kdguard.runtime.engines.process import EngineProcess

SMALLEST = (32, 32)
PRECISIONS: dict[str, Precision] = {"fp32": "as-is", "fp16": "fp16"}


@contextmanager
def running_engines(
    models: Mapping[str, Any], kind: EngineKind, folder: Path, precision: str, size: tuple[int, int]
) -> Iterator[EngineProcess]:
    """Engines of float models `image` -> `restored`, built here for this GPU and loaded onto it.

    Args:
        models: by name, in the order in which the process numbers them.
        precision: one of `PRECISIONS`.
        size: the largest that they take and the one that they are tuned for, height and width.

    Raises:
        Skipped: the vendor's package or something that it needs is missing, or it does not build for this GPU.
        UserError: it refuses a model, or the engine that it built.
    """
    gpus = _gpus(kind)
    from kdguard.export.model_card import ModelCard
    from kdguard.export.onnx_files import save_onnx
    from kdguard.runtime.engines.build import build_engine
    from kdguard.runtime.engines.options import BuildOptions
    from kdguard.runtime.engines.session import load_engine, start_engines
    from kdguard.runtime.engines.shapes import Size, SizeRange

    card = ModelCard(task="deraining", input_name="image", output_name="restored")
    # TensorRT-RTX 1.7 fails to build a hardened network with a perturbed map among its outputs for one size alone.
    sizes = SizeRange(Size(*SMALLEST), Size(*size), Size(*size))
    options = BuildOptions(PRECISIONS[precision], gpus=gpus)
    engines = []
    for name, model in models.items():
        source = folder / f"{name}-{precision}.onnx"
        save_onnx(model, source)
        engine = source.with_suffix(f".{kind.name}.engine")
        build_engine(source, model, card, engine, kind, sizes, options)
        engines.append(load_engine(engine))
    process = start_engines(*engines)
    try:
        yield process
    finally:
        process.close()


def _gpus(kind: EngineKind) -> list[str]:
    """The GPU to build for, where the vendor has to be told."""
    needed("onnx", "onnx_graphsurgeon", "onnxruntime", "polygraphy", "pydantic", "safetensors")
    (vendor,) = needed(kind.package)
    capability = compute_capability()
    if capability is None:
        raise Skipped("engines run on a GPU, and the driver knows of none")
    if kind.needs_gpu:
        return []
    if f"SM{capability.replace('.', '')}" not in vendor.ComputeCapability.__members__:
        raise Skipped(f"{kind.title} {vendor.__version__} builds for no GPU of compute capability {capability}")
    return [capability]
