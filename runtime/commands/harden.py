"""`kdguard harden`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from kdguard.runtime.commands import options
from kdguard.runtime.commands.options import split_names

if TYPE_CHECKING:
    from kdguard.graph_passes.op import SvdPerturbAttributes


def harden(
    model: Annotated[Path, typer.Argument(help="The teacher, an ONNX model.")],
    output: Annotated[Path, typer.Option("-o", "--output", help="The hardened .onnx file to write.")],
    layers: Annotated[
        list[str] | None,
        typer.Option(
            "--layers",
            metavar="auto|GLOB",
            help="auto chooses from calibration data; or tensor or node names: repeat, or separate by commas.",
        ),
    ] = None,
    op_type: Annotated[
        list[str] | None,
        typer.Option("--op-type", help="What these operators produce; repeat, or separate by commas."),
    ] = None,
    placement: Annotated[
        options.PlacementOption,
        typer.Option(
            help="paired: restored before every reader. in-path: everything downstream sees it. compensated: in-path, "
            "readers refitted. auto: paired and compensated where layers are chosen, paired where they are named."
        ),
    ] = options.PlacementOption.auto,
    rank: Annotated[int | None, typer.Option(help="How many singular values to amplify.")] = None,
    gain: Annotated[
        str, typer.Option(metavar="auto|H", help="Factor on each of them; auto calibrates it per layer.")
    ] = "auto",
    centred: Annotated[bool, typer.Option("--centred", help="Subtract the channel means before the SVD.")] = False,
    adaptive: Annotated[float, typer.Option(help="0 to 1: follow each image's own spectrum.")] = 0.0,
    modulation: Annotated[
        options.ModulationOption, typer.Option(help="Factor over positions: a keyed pattern, or a sign from the tail.")
    ] = options.ModulationOption.none,
    coherence: Annotated[float, typer.Option(help="Cap per position, in local feature norms; 0 is none.")] = 0.0,
    max_slowdown: Annotated[
        float,
        typer.Option(
            min=1,
            max=10,
            help="Cover further taps while the time, hardened over clean, stays below this by a cost model: an "
            "estimate, no promise; time the result on your machine.",
        ),
    ] = 1.05,
    tile_safe: Annotated[
        bool, typer.Option("--tile-safe", help="No in-path node that shows seams when the model runs in tiles.")
    ] = False,
    cache: options.Cache = None,
    task: options.Task = None,
    data: options.OptionalData = None,
    budget_db: options.BudgetDb = 0.1,
    seed: options.Seed = 0,
    value_range: options.ValueRange = None,
    layout: options.Layout = None,
    size_multiple: options.SizeMultiple = None,
    extra_input: options.ExtraInput = None,
    json: options.Json = None,
) -> None:
    """Insert the perturbation and write the hardened model with its manifest."""
    from kdguard.export.files import check_onnx_name, check_outputs, write_json
    from kdguard.export.onnx_files import model_files
    from kdguard.runtime.auto.options import AUTO, HardenOptions
    from kdguard.runtime.harden import harden as harden_file
    from kdguard.runtime.manifest import manifest_path
    from kdguard.runtime.tables import describe_manifest
    from kdguard.runtime.terminal import say
    from kdguard.runtime.wording import converted, counted

    check_onnx_name(output)
    check_outputs([output, manifest_path(output), json], model_files(model))
    given = _given_attributes(rank, gain, centred, adaptive, modulation, coherence, seed)
    globs, operators = split_names(layers), split_names(op_type)
    manifest = harden_file(
        model,
        output,
        HardenOptions(
            globs=globs or (() if operators else (AUTO,)),
            op_types=operators,
            placement=placement.value,
            attributes=given,
            gain=None if gain == "auto" else given.gain if given else None,
            budget_db=budget_db,
            seed=seed,
            max_slowdown=max_slowdown,
            tile_safe=tile_safe,
            cache=cache,
        ),
        task=task,
        data=data,
        overrides=options.card_overrides(value_range, layout, size_multiple, extra_input),
    )
    if manifest.converted_from_opset:
        say(converted(model, manifest.converted_from_opset))
    for line, style in describe_manifest(manifest):
        say(line, style)
    say(f"wrote {output} and {manifest_path(output)}: {counted(len(manifest.layers), 'hardened layer')}")
    if json:
        write_json(json, manifest.model_dump())


def _given_attributes(
    rank: int | None,
    gain: str,
    centred: bool,
    adaptive: float,
    modulation: options.ModulationOption,
    coherence: float,
    seed: int,
) -> SvdPerturbAttributes | None:
    """What the user fixed, or None where everything is left to kdguard.

    Raises:
        UserError: a value that the op does not take.
    """
    from pydantic import ValidationError

    from kdguard.export.errors import UserError, first_problem
    from kdguard.graph_passes.op import SvdPerturbAttributes
    from kdguard.graph_passes.op.conventions import Modulation
    from kdguard.graph_passes.op.keys import draw_key

    kind = {"none": Modulation.NONE, "pattern": Modulation.PATTERN, "tail": Modulation.TAIL_SIGN}[modulation.value]
    fixed: dict[str, object] = {"rank": rank} if rank is not None else {}
    if gain != "auto":
        try:
            fixed["gain"] = float(gain)
        except ValueError as error:
            raise UserError(f"--gain {gain!r} is neither a number nor auto") from error
    if centred or adaptive or kind or coherence:
        fixed |= {"centred": centred, "adaptive": adaptive, "modulation": kind, "coherence": coherence}
        fixed["pattern"] = draw_key(kind, seed)
    try:
        return SvdPerturbAttributes.model_validate(fixed) if fixed else None
    except ValidationError as error:
        where, what = first_problem(error)
        raise UserError(f"--{where.split('.', maxsplit=1)[0]}: {what}" if where else what) from error
