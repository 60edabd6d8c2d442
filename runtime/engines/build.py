"""`kdguard build`: from a hardened model to an engine and its manifest."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from importlib.util import find_spec
from pathlib import Path

import onnx

from kdguard.export.errors import MissingDependencyError, UserError
from kdguard.export.files import atomic_path, sha256_of_file, write_json
from kdguard.export.model_card import ModelCard
from kdguard.export.onnx_files import sha256_of_model
from kdguard.runtime.engines import EngineKind
from kdguard.runtime.engines.manifest import ANY_GPU, EngineManifest, manifest_path
from kdguard.runtime.engines.prepare import in_precision, written_out
from kdguard.runtime.engines.shapes import SizeRange, profile
from kdguard.runtime.engines.vendor import Answer, Request

LOG_LINES = 3


def check_installed(kind: EngineKind) -> None:
    """Fail before work starts where the vendor's package is not there.

    Raises:
        MissingDependencyError: says how to install it.
    """
    if find_spec(kind.package) is None:
        raise MissingDependencyError(
            f"{kind.title} is not installed (Python package {kind.package}); pip install 'kdguard[{kind.extra}]'"
        )


def build_engine(
    hardened: Path,
    model: onnx.ModelProto,
    card: ModelCard,
    engine: Path,
    kind: EngineKind,
    precision: str,
    sizes: SizeRange,
    *,
    timing_cache: Path | None = None,
    version_compatible: bool = False,
    hardware_compatible: bool = False,
) -> EngineManifest:
    """Compile a model; engine and manifest are written whole or not at all.

    Args:
        hardened: the file, for its name and hash.
        model: what is in it.
        timing_cache: read where it is there, and written.
        version_compatible: the engine also loads into newer versions of the vendor's library.
        hardware_compatible: it also runs on other GPUs from Ampere on.

    Raises:
        UserError: the vendor's parser or builder refuses the model.
        MissingDependencyError: its package is not installed.
    """
    check_installed(kind)
    ready = written_out(in_precision(model, precision))
    shapes = profile(ready, card, sizes)
    with tempfile.TemporaryDirectory() as folder, atomic_path(engine) as unfinished:
        source = Path(folder) / "model.onnx"
        onnx.save(ready, source)
        request = Request(
            package=kind.package,
            model=source,
            engine=unfinished,
            shapes=shapes,
            timing_cache=timing_cache,
            version_compatible=version_compatible,
            hardware_compatible=hardware_compatible,
        )
        answer = _asked(request, kind, Path(folder))
        manifest = EngineManifest(
            engine=engine.name,
            engine_sha256=sha256_of_file(unfinished),
            kind=kind.name,
            vendor_version=answer.vendor_version,
            compute_capability=answer.compute_capability or ANY_GPU,
            hardened=hardened.name,
            hardened_sha256=sha256_of_model(hardened),
            precision=precision,
            op="function, written out in standard operators",
            inputs=answer.inputs,
            outputs=answer.outputs,
            shapes=shapes,
            seconds=answer.seconds,
        )
        write_json(manifest_path(engine), manifest.model_dump())
    return manifest


def _asked(request: Request, kind: EngineKind, folder: Path) -> Answer:
    """The vendor's answer, from a process that may die without taking ours along."""
    question = folder / "request.json"
    question.write_text(request.model_dump_json())
    command = [sys.executable, "-m", "kdguard.runtime.engines.vendor", str(question)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603  # ourselves
    lines = done.stdout.strip().splitlines()
    if done.returncode or not lines:
        log = " / ".join(
            [line.strip() for line in (done.stdout + done.stderr).splitlines() if line.strip()][-LOG_LINES:]
        )
        raise UserError(f"{kind.title} ended with {done.returncode} and built nothing: {log[-600:]}")
    answer = Answer.model_validate_json(lines[-1])
    if answer.refused:
        raise UserError(f"{kind.title} cannot build this model: {answer.refused}")
    return answer
