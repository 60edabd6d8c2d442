"""An engine file as a session: images in and out like any other, run by the vendor's library on a GPU."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kdguard.export.errors import MissingDependencyError, UserError
from kdguard.export.file_kinds import is_engine_file
from kdguard.export.image_tensor import Tensor
from kdguard.export.model_card import ModelCard, describe_shape
from kdguard.runtime.engines import ENGINES
from kdguard.runtime.engines.build import check_installed
from kdguard.runtime.engines.manifest import EngineManifest, check_engine, read_manifest
from kdguard.runtime.engines.process import EngineProcess
from kdguard.runtime.engines.runner import Request
from kdguard.runtime.engines.tensor_types import NUMPY_TYPES
from kdguard.runtime.extra_inputs import fill_inputs
from kdguard.runtime.gpu import compute_capability
from kdguard.runtime.image_session import ImageSession
from kdguard.runtime.inference import Provider

HOST_CODE_VARIABLE = "KDGUARD_ENGINE_HOST_CODE"
"""Version-compatible engines hold code for the CPU. Manifests are not signed, so the user says that he trusts it."""
SUFFIXES = (".engine", ".plan", ".trt")


@dataclass(frozen=True)
class Engine:
    """An engine file that its manifest vouches for."""

    path: Path
    manifest: EngineManifest


def is_engine(path: Path) -> bool:
    """Whether a file is to be taken for an engine: by its name or by its first bytes."""
    return path.suffix.lower() in SUFFIXES or is_engine_file(path)


def load_engine(path: Path) -> Engine:
    """An engine, held against its manifest; it is not loaded onto a GPU yet.

    Raises:
        UserError: the file or its manifest is missing or damaged, or they do not belong together.
    """
    return Engine(path, read_manifest(path))


def start_engines(*engines: Engine) -> EngineProcess:
    """Load engines of one vendor onto the GPU, to be asked by turns.

    Raises:
        MissingDependencyError: this machine has no GPU, not the vendor's package, or other versions than the engines
            were built for.
        UserError: the vendor's library refuses one.
    """
    kind = ENGINES[engines[0].manifest.kind]
    check_installed(kind)
    capability = compute_capability()
    if capability is None:
        raise MissingDependencyError(
            f"{engines[0].path} is an engine, engines run on an NVIDIA GPU, and this machine has none (or no driver); "
            "ask the model that it was built from, or do this where a GPU is"
        )
    for engine in engines:
        if engine.manifest.kind != kind.name:
            raise UserError("engines of TensorRT and TensorRT-RTX cannot be compared by turns; give two of one kind")
        check_engine(engine.path, import_module(kind.package).__version__, capability)
    request = Request(
        package=kind.package,
        engines=[engine.path for engine in engines],
        host_code_allowed=[
            engine.manifest.version_compatible and os.environ.get(HOST_CODE_VARIABLE) == "1" for engine in engines
        ],
    )
    return EngineProcess(request, kind.title)


class EngineSession(ImageSession):
    """One engine, ready to run."""

    def __init__(
        self, engine: Engine, card: ModelCard, *, provider: Provider = "auto", taps: Sequence[str] = ()
    ) -> None:
        """Load it.

        Args:
            taps: further outputs to return beside the card's.
            provider: as users say it; an engine runs on a GPU and nowhere else.

        Raises:
            MissingDependencyError: as `start_engines`, or the CPU was asked for.
            UserError: the vendor's library refuses the engine.
        """
        if provider == "cpu":
            raise MissingDependencyError(f"{engine.path} is an engine and runs on a GPU only; leave --provider out")
        self.card = card
        self.taps = tuple(taps)
        self._manifest = engine.manifest
        self._process = start_engines(engine)

    @property
    def provider(self) -> str:
        kind = ENGINES[self._manifest.kind]
        return f"{kind.title} {self._manifest.vendor_version}"

    @property
    def kernels(self) -> str:
        return self._manifest.op

    def _run(self, tensor: Tensor, further: Mapping[str, NDArray[Any]]) -> list[Tensor]:
        outputs = self._process.infer(0, engine_inputs(self._manifest, self.card, tensor, further))
        if self.card.output_name not in outputs:
            raise UserError(
                f"the engine has outputs {sorted(outputs)}, and the card speaks of {self.card.output_name!r}"
            )
        return [outputs[name].astype(np.float32) for name in (self.card.output_name, *self.taps)]


def engine_inputs(
    manifest: EngineManifest, card: ModelCard, tensor: Tensor, further: Mapping[str, NDArray[Any]]
) -> dict[str, NDArray[Any]]:
    """All inputs of one run, in the engine's types.

    Raises:
        UserError: the image has a size that the engine was not built for.
    """
    smallest, _, largest = manifest.shapes[card.input_name]
    if any(not low <= side <= high for low, side, high in zip(smallest, tensor.shape, largest, strict=True)):
        raise UserError(
            f"the engine takes images of {describe_shape(smallest)} to {describe_shape(largest)} and this one is "
            f"{describe_shape(tensor.shape)}; build it with other --shapes"
        )
    types = {given.name: NUMPY_TYPES[given.dtype] for given in manifest.inputs}
    declared = {given.name: [None if side < 0 else side for side in given.shape] for given in manifest.inputs}
    feed = {card.input_name: tensor, **fill_inputs(card, declared, tensor.shape), **further}
    return {name: np.ascontiguousarray(values, dtype=types[name]) for name, values in feed.items()}
