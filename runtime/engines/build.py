"""`kdguard build`: from a hardened model to an engine and its manifest."""

from __future__ import annotations

import re
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from contextlib import nullcontext
from importlib.util import find_spec
from pathlib import Path

import onnx

from kdguard.export.errors import MissingDependencyError, UserError
from kdguard.export.files import atomic_path, sha256_of_file, to_json
from kdguard.export.model_card import ModelCard
from kdguard.export.onnx_files import save_onnx, sha256_of_model
from kdguard.graph_passes.insert_key_gate import with_required_key
from kdguard.graph_passes.inventory import hardened_layers
from kdguard.runtime.engines import EngineKind
from kdguard.runtime.engines.gpus import AMPERE, RTX_DEFAULT
from kdguard.runtime.engines.manifest import EngineManifest, manifest_path
from kdguard.runtime.engines.prepare import Precision, precision_of, written_out
from kdguard.runtime.engines.shapes import SizeRange, profile
from kdguard.runtime.engines.vendor import Answer, Request

LOG_LINES = 3
ERROR_LINE = re.compile(r"^\[E\] (?:\S+: Error Code \d+: )?(.*)$", re.MULTILINE)
"""How Polygraphy shows what the builder reports as an error."""


def check_installed(kind: EngineKind) -> None:
    """Fail before work starts where the vendor's package is not there.

    Raises:
        MissingDependencyError: says how to install it.
    """
    if find_spec(kind.package) is None:
        raise MissingDependencyError(
            f"{kind.title} is not installed (Python package {kind.package}); pip install 'kdguard[{kind.extra}]'"
        )
    if kind.needs_gpu:
        import torch

        if not torch.cuda.is_available():
            raise MissingDependencyError(
                f"{kind.title} builds on the GPU that the engine is for, and PyTorch finds none; --engine tensorrt-rtx "
                "needs none"
            )


def check_options(
    kind: EngineKind,
    *,
    timing_cache: Path | None = None,
    version_compatible: bool = False,
    hardware_compatible: bool = False,
    gpus: Sequence[str] = (),
) -> None:
    """Refuse what this vendor's builder would ignore.

    Raises:
        UserError: says why it makes no sense.
    """
    if kind.needs_gpu:
        refused = {"--gpu": (bool(gpus), "builds for the GPU that it runs on; --hardware-compatible is for others")}
    else:
        refused = {
            "--timing-cache": (timing_cache is not None, "times nothing when it builds, so there is nothing to keep"),
            "--version-compatible": (version_compatible, "builds no engines for other versions; build one for each"),
            "--hardware-compatible": (hardware_compatible, "does so by itself; --gpu builds for older or fewer GPUs"),
        }
    for option, (given, why) in refused.items():
        if given:
            raise UserError(f"{option}: {kind.title} {why}")


def build_engine(
    hardened: Path,
    model: onnx.ModelProto,
    card: ModelCard,
    engine: Path,
    kind: EngineKind,
    sizes: SizeRange,
    *,
    precision: Precision = "as-is",
    timing_cache: Path | None = None,
    version_compatible: bool = False,
    hardware_compatible: bool = False,
    gpus: Sequence[str] = (),
) -> EngineManifest:
    """Compile a model; engine and manifest are written whole or not at all.

    Args:
        hardened: the file, for its name and hash.
        model: what is in it.
        precision: fp16 makes a float model so; inputs and outputs stay what they are.
        timing_cache: read where it is there, and written.
        version_compatible: the engine also loads into newer versions of the vendor's library.
        hardware_compatible: it also runs on other GPUs from Ampere on.
        gpus: compute capabilities to build for, of those that TensorRT-RTX knows.

    Raises:
        UserError: the vendor's parser or builder refuses the model, or an option makes no sense.
        MissingDependencyError: its package is not installed, or there is no GPU where it needs one.
    """
    check_options(
        kind,
        timing_cache=timing_cache,
        version_compatible=version_compatible,
        hardware_compatible=hardware_compatible,
        gpus=gpus,
    )
    check_installed(kind)
    identity = sha256_of_model(hardened)
    # A key with a default would become a constant.
    ready = written_out(with_required_key(model), precision)
    shapes = profile(ready, card, sizes)
    # The engine takes its place first: an old manifest refuses a new engine, which is the safe way to be interrupted.
    with (
        tempfile.TemporaryDirectory() as folder,
        atomic_path(manifest_path(engine)) as unfinished_manifest,
        atomic_path(engine) as unfinished,
        atomic_path(timing_cache) if timing_cache else nullcontext() as unfinished_cache,
    ):
        source = Path(folder) / "model.onnx"
        save_onnx(ready, source)
        request = Request(
            package=kind.package,
            model=source,
            engine=unfinished,
            shapes=shapes,
            timing_cache=timing_cache if timing_cache and timing_cache.is_file() else None,
            new_timing_cache=unfinished_cache,
            version_compatible=version_compatible,
            hardware_compatible=hardware_compatible,
            gpus=list(gpus),
        )
        answer = _asked(request, kind, Path(folder))
        manifest = EngineManifest(
            engine=engine.name,
            engine_sha256=sha256_of_file(unfinished),
            kind=kind.name,
            vendor_version=answer.vendor_version,
            gpus=_built_for(kind, answer, hardware_compatible, gpus),
            later_gpus=hardware_compatible or not (kind.needs_gpu or gpus),
            hardened=hardened.name,
            hardened_sha256=identity,
            precision=precision_of(ready),
            op="function, written out in standard operators" if hardened_layers(model) else "none",
            version_compatible=version_compatible,
            inputs=answer.inputs,
            outputs=answer.outputs,
            shapes=shapes,
            seconds=answer.seconds,
        )
        unfinished_manifest.write_text(to_json(manifest.model_dump()), encoding="utf-8")
    return manifest


def _built_for(kind: EngineKind, answer: Answer, hardware_compatible: bool, gpus: Sequence[str]) -> list[str]:
    if hardware_compatible:
        return [AMPERE]
    return [answer.compute_capability] if kind.needs_gpu else list(gpus or RTX_DEFAULT)


def _asked(request: Request, kind: EngineKind, folder: Path) -> Answer:
    """The vendor's answer, from a process that may die without taking ours along."""
    question = folder / "request.json"
    question.write_text(request.model_dump_json())
    # -P: nothing is imported from the folder that the user happens to be in.
    command = [sys.executable, "-P", "-m", "kdguard.runtime.engines.vendor", str(question)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603  # ourselves
    lines = done.stdout.strip().splitlines()
    if done.returncode or not lines:
        if errors := ERROR_LINE.findall(done.stdout):
            raise UserError(f"{kind.title} cannot build this model: {errors[-1][:600]}")
        log = " / ".join(
            [line.strip() for line in (done.stdout + done.stderr).splitlines() if line.strip()][-LOG_LINES:]
        )
        raise UserError(f"{kind.title} ended with {done.returncode} and built nothing: {log[-600:]}")
    answer = Answer.model_validate_json(lines[-1])
    if answer.refused:
        raise UserError(f"{kind.title} cannot build this model: {answer.refused}")
    return answer
