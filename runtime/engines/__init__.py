"""Engines: hardened models compiled by TensorRT or TensorRT-RTX, with a manifest beside each.

`prepare` makes the model that the vendor's parser gets, `vendor` runs the vendor's package in a process of its own,
`build` puts both together, and `manifest` says what an engine is and checks it before anybody loads it.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class EngineKind:
    """One way to compile.

    Attributes:
        name: as `--engine` takes it.
        package: the Python package to import.
        extra: of kdguard's, that installs it.
        title: for messages.
        needs_gpu: to build, which is then the one that the engine is for.
    """

    name: str
    package: str
    extra: str
    title: str
    needs_gpu: bool


ENGINES = {
    kind.name: kind
    for kind in (
        EngineKind("tensorrt", "tensorrt", "trt", "TensorRT", needs_gpu=True),
        EngineKind("tensorrt-rtx", "tensorrt_rtx", "rtx", "TensorRT-RTX", needs_gpu=False),
    )
}
