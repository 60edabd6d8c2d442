"""What leaves the building: an ONNX file or an engine. Whoever measures, attacks or times one takes either."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import onnx

from kdguard.export.errors import UserError
from kdguard.export.model_card import ModelCard, read_card
from kdguard.export.onnx_files import hash_model, load_onnx, model_files
from kdguard.graph_passes.inventory import hardened_layers
from kdguard.runtime.engines.manifest import found_manifest
from kdguard.runtime.engines.session import Engine, EngineSession, is_engine, load_engine
from kdguard.runtime.image_session import ImageSession
from kdguard.runtime.inference import Provider
from kdguard.runtime.session import RestorationSession

Shipped = onnx.ModelProto | Engine


def load_shipped(path: Path) -> Shipped:
    """Read an ONNX file, or an engine's manifest.

    Raises:
        UserError: neither, or damaged.
    """
    return load_engine(path) if is_engine(path) else load_onnx(path)


def shipped_files(path: Path) -> list[Path]:
    """The file and all that belongs to it."""
    return [path, found_manifest(path)] if is_engine(path) else model_files(path)


def hash_shipped(shipped: Shipped) -> str:
    """SHA-256 of what answers."""
    return shipped.manifest.engine_sha256 if isinstance(shipped, Engine) else hash_model(shipped)


def layers_of(shipped: Shipped) -> list[str]:
    """Names of the hardened layers."""
    if isinstance(shipped, Engine):
        return shipped.manifest.layers
    return [layer.layer for layer in hardened_layers(shipped)]


def card_of(shipped: Shipped) -> ModelCard | None:
    """The card inside the model, or the one that an engine was built with."""
    return shipped.manifest.card if isinstance(shipped, Engine) else read_card(shipped)


def start(
    shipped: Shipped, card: ModelCard, *, provider: Provider = "auto", threads: int = 0, taps: Sequence[str] = ()
) -> ImageSession:
    """A session of either.

    Args:
        taps: tensors to read beside the output; an engine has none to read but its further outputs.

    Raises:
        UserError: the runtime refuses the file, or taps are asked of an engine.
        MissingDependencyError: this machine cannot run it.
    """
    if isinstance(shipped, Engine):
        if not {*taps} <= {output.name for output in shipped.manifest.outputs}:
            raise UserError(f"{shipped.path} is an engine, which hands out its outputs and no inner tensors")
        return EngineSession(shipped, card, provider=provider, taps=taps)
    return RestorationSession(shipped, card, provider=provider, threads=threads, taps=taps)
