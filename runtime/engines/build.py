"""`kdguard build`: from a hardened model to an engine and its manifest."""

from __future__ import annotations

import re
import subprocess
import sys
import tempfile
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
from kdguard.graph_passes.op.attributes import PROJECTOR
from kdguard.runtime.engines import EngineKind
from kdguard.runtime.engines.gpus import AMPERE, RTX_DEFAULT, TURING
from kdguard.runtime.engines.manifest import EngineManifest, Op, manifest_path
from kdguard.runtime.engines.options import DEFAULTS, BuildOptions
from kdguard.runtime.engines.plugin_nodes import divide
from kdguard.runtime.engines.prepare import precision_of, written_out
from kdguard.runtime.engines.shapes import SizeRange, profile
from kdguard.runtime.engines.tensor_types import check_types
from kdguard.runtime.engines.vendor import Answer, Request
from kdguard.runtime.float_edges import with_float_edges
from kdguard.runtime.gpu import compute_capability
from kdguard.runtime.kernels.build import build_plugin_kernel, plugin_fingerprint
from kdguard.runtime.wording import last_words

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


def check_builder(kind: EngineKind) -> None:
    """Fail before work starts where the vendor cannot build here.

    Raises:
        MissingDependencyError: its package or a GPU is missing.
    """
    check_installed(kind)
    if kind.needs_gpu and compute_capability() is None:
        raise MissingDependencyError(
            f"{kind.title} builds on the GPU that the engine is for, and this machine has none; --engine tensorrt-rtx "
            "needs none"
        )


def build_engine(
    hardened: Path,
    model: onnx.ModelProto,
    card: ModelCard,
    engine: Path,
    kind: EngineKind,
    sizes: SizeRange,
    options: BuildOptions = DEFAULTS,
) -> EngineManifest:
    """Compile a model; engine and manifest are written whole or not at all.

    Args:
        hardened: the file, for its name and hash.
        model: what is in it.
        options: of those that make sense for this vendor.

    Raises:
        UserError: the vendor's parser or builder refuses the model, or an option makes no sense.
        MissingDependencyError: its package is not installed, or there is no GPU or no nvcc where it needs one.
    """
    options.check(kind)
    check_builder(kind)
    identity = sha256_of_model(hardened)
    # A key with a default would become a constant.
    ready = written_out(with_required_key(model), options.precision, keep=[PROJECTOR] if options.plugin else ())
    ready = with_float_edges(ready)
    check_types(ready, str(hardened))
    op: Op = "function" if hardened_layers(model) else "none"
    if options.plugin:
        ready, op = _with_plugin(ready)
    shapes = profile(ready, card, sizes)
    # The engine takes its place first: an old manifest refuses a new engine, which is the safe way to be interrupted.
    with (
        tempfile.TemporaryDirectory() as folder,
        atomic_path(manifest_path(engine)) as unfinished_manifest,
        atomic_path(engine) as unfinished,
        atomic_path(options.timing_cache) if options.timing_cache else nullcontext() as new_cache,
    ):
        source = Path(folder) / "model.onnx"
        save_onnx(ready, source)
        request = Request(
            package=kind.package,
            model=source,
            engine=unfinished,
            shapes=shapes,
            timing_cache=options.timing_cache if options.timing_cache and options.timing_cache.is_file() else None,
            new_timing_cache=new_cache,
            version_compatible=options.version_compatible,
            hardware_compatible=options.hardware_compatible,
            gpus=list(options.gpus),
            plugin=build_plugin_kernel(Path(folder) / "plugin.ptx") if options.plugin else None,
        )
        answer = ask(request, kind, Path(folder))
        manifest = EngineManifest(
            engine=engine.name,
            engine_sha256=sha256_of_file(unfinished),
            kind=kind.name,
            vendor_version=answer.vendor_version,
            gpus=_built_for(kind, answer, options),
            later_gpus=options.hardware_compatible or not (kind.needs_gpu or options.gpus),
            hardened=hardened.name,
            hardened_sha256=identity,
            layers=[layer.layer for layer in hardened_layers(model)],
            card=card,
            precision=precision_of(ready),
            op=op,
            plugin=plugin_fingerprint() if options.plugin else None,
            version_compatible=options.version_compatible,
            inputs=answer.inputs,
            outputs=answer.outputs,
            shapes=shapes,
            seconds=answer.seconds,
        )
        unfinished_manifest.write_text(to_json(manifest.model_dump()), encoding="utf-8")
    return manifest


def _with_plugin(model: onnx.ModelProto) -> tuple[onnx.ModelProto, Op]:
    division = divide(model)
    if not division.plugin:
        raise UserError("--plugin: its kernel can work on no hardened layer of this model; leave the option out")
    return division.model, "plugin and function" if division.function else "plugin"


def _built_for(kind: EngineKind, answer: Answer, options: BuildOptions) -> list[str]:
    if options.hardware_compatible:
        return [AMPERE]
    return [answer.compute_capability] if kind.needs_gpu else list(options.gpus or RTX_DEFAULT)


def ask(request: Request, kind: EngineKind, folder: Path) -> Answer:
    """The vendor's answer, from a process that may die without taking ours along.

    Args:
        folder: a temporary one, for the question.

    Raises:
        UserError: the vendor refuses the model or dies of it, or a file cannot be written.
        MissingDependencyError: the vendor's package is not whole.
    """
    question = folder / "request.json"
    question.write_text(request.model_dump_json())
    # -P: nothing is imported from the folder that the user happens to be in.
    command = [sys.executable, "-P", "-m", "kdguard.runtime.engines.vendor", str(question)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603  # ourselves
    lines = done.stdout.strip().splitlines()
    if done.returncode or not lines:
        if errors := ERROR_LINE.findall(done.stdout):
            raise _cannot_build(kind, errors[-1][:600])
        said = last_words(done.stdout + done.stderr) or "it said nothing"
        raise UserError(f"{kind.title} ended with {done.returncode} and built nothing: {said}")
    answer = Answer.model_validate_json(lines[-1])
    if answer.lacking:
        raise MissingDependencyError(f"{kind.title}: {answer.lacking}")
    if answer.unwritten:
        raise UserError(answer.unwritten)
    if answer.refused:
        raise _cannot_build(kind, answer.refused)
    return answer


def _cannot_build(kind: EngineKind, why: str) -> UserError:
    advice = f"; leave --gpu {TURING} out" if "Turing" in why else ""
    return UserError(f"{kind.title} cannot build this model: {why}{advice}")
