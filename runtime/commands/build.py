"""`kdguard build`."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from kdguard.runtime.commands import options


class EngineOption(StrEnum):
    """Which vendor's compiler."""

    tensorrt = "tensorrt"
    tensorrt_rtx = "tensorrt-rtx"


class PrecisionOption(StrEnum):
    """Of weights and maps."""

    as_is = "as-is"
    fp16 = "fp16"


def build(
    hardened: Annotated[Path, typer.Argument(help="The hardened model, an ONNX file.")],
    output: Annotated[Path, typer.Option("-o", "--output", help="The engine to write; its manifest is OUTPUT.json.")],
    engine: Annotated[
        EngineOption, typer.Option(help="tensorrt-rtx builds without a GPU.")
    ] = EngineOption.tensorrt_rtx,
    shapes: Annotated[
        tuple[str, str, str] | None,
        typer.Option(metavar="MIN OPT MAX", help="Image sizes HEIGHTxWIDTH; 64x64 720x1280 1080x1920 by default."),
    ] = None,
    precision: Annotated[
        PrecisionOption, typer.Option(help="fp16 converts a float model; the op stays float inside.")
    ] = PrecisionOption.as_is,
    task: options.Task = None,
    timing_cache: Annotated[
        Path | None, typer.Option(help="Read where it is there, and written; TensorRT only.")
    ] = None,
    version_compatible: Annotated[bool, typer.Option(help="The engine also loads into newer versions.")] = False,
    hardware_compatible: Annotated[bool, typer.Option(help="It also runs on other GPUs from Ampere on.")] = False,
    gpu: Annotated[
        list[str] | None,
        typer.Option(
            metavar="MAJOR.MINOR",
            help="Compute capability to build for; repeat it for several. TensorRT-RTX builds for 8.0, 8.6, 8.9, 12.0 "
            "and later by default, and TensorRT for the GPU that it runs on.",
        ),
    ] = None,
    plugin: Annotated[
        bool, typer.Option(help="TensorRT only, and never run yet: our kernel goes into the engine; needs nvcc.")
    ] = False,
    value_range: Annotated[
        tuple[float, float] | None,
        typer.Option(
            metavar="LOW HIGH", help="What black and white are to the model, where it carries no card; else 0 1."
        ),
    ] = None,
    layout: options.Layout = None,
    size_multiple: options.SizeMultiple = None,
    extra_input: options.ExtraInput = None,
    json: options.Json = None,
) -> None:
    """Compile a hardened model to an engine, with a manifest that says what it is."""
    from kdguard.export.errors import MissingDependencyError
    from kdguard.export.files import check_outputs, write_json
    from kdguard.export.model_card import read_card
    from kdguard.export.onnx_files import load_onnx, model_files
    from kdguard.graph_passes.inventory import hardened_layers
    from kdguard.graph_passes.key_gate.views import ensemble_views
    from kdguard.runtime.engines import ENGINES
    from kdguard.runtime.engines.build import build_engine, check_builder
    from kdguard.runtime.engines.gpus import in_words, parse_gpus
    from kdguard.runtime.engines.manifest import check_engine_name, manifest_path
    from kdguard.runtime.engines.options import BuildOptions
    from kdguard.runtime.engines.shapes import default_range, parse_range
    from kdguard.runtime.manifest import manifest_path as hardened_manifest
    from kdguard.runtime.resolve_card import resolve_card
    from kdguard.runtime.terminal import say

    kind = ENGINES[engine.value]
    check_engine_name(output)
    check_outputs(
        [output, manifest_path(output), json, timing_cache], [*model_files(hardened), hardened_manifest(hardened)]
    )
    asked = BuildOptions(
        precision.value, timing_cache, version_compatible, hardware_compatible, parse_gpus(gpu or ()), plugin
    )
    asked.check(kind)
    check_builder(kind)
    model = load_onnx(hardened)
    overrides = options.card_overrides(value_range, layout, size_multiple, extra_input)
    try:
        card = resolve_card(model, task, str(hardened), overrides)
    except MissingDependencyError as error:
        raise MissingDependencyError(
            f"{hardened} has no card, so its scale and size multiple are found by running it, and this machine cannot "
            "(bfloat16 mostly needs a GPU); harden it with --data where it runs: the file then has a card"
        ) from error
    if read_card(model) is None and value_range is None:
        low, high = card.value_range
        say(f"{hardened} does not state its value range: {low:g} to {high:g} taken; say --value-range if not", "yellow")
    if not hardened_layers(model):
        say(f"{hardened} holds no kdguard nodes: nothing is hardened in this engine", "yellow")
    if ensemble_views(model):
        say(f"the self-ensemble of {hardened} stays out of the engine, in which a key opens the rest only", "yellow")
    sizes = parse_range(shapes, card) if shapes else default_range(card)
    manifest = build_engine(hardened, model, card, output, kind, sizes, asked)
    if manifest.op == "plugin and function":
        say("the plugin's kernel cannot work on all hardened layers; the others are left to the function", "yellow")
    say(
        f"{output}: {kind.title} {manifest.vendor_version}, {manifest.precision}, images of {sizes.smallest} to "
        f"{sizes.largest}, built in {manifest.seconds:g} s for GPUs of compute capability "
        f"{in_words(manifest.gpus, manifest.later_gpus)}; it has not been run"
    )
    if json:
        write_json(json, manifest.model_dump())
