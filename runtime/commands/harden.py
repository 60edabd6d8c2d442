"""`kdguard harden`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from kdguard.runtime.commands import options
from kdguard.runtime.commands.options import split_names

STILL = 0.01
"""A map that moves by less than this share of its norm is called out."""


def harden(
    model: Annotated[Path, typer.Argument(help="The teacher, an ONNX model.")],
    output: Annotated[Path, typer.Option("-o", "--output", help="The hardened .onnx file to write.")],
    layers: Annotated[
        list[str] | None,
        typer.Option(
            "--layers",
            metavar="GLOB",
            help="Feature maps by tensor or node name; repeat, or separate by commas.",
        ),
    ] = None,
    op_type: Annotated[
        list[str] | None,
        typer.Option("--op-type", help="What these operators produce; repeat, or separate by commas."),
    ] = None,
    placement: Annotated[
        options.PlacementOption,
        typer.Option(help="paired: restored before every reader. in-path: everything downstream sees it."),
    ] = options.PlacementOption.paired,
    rank: Annotated[int, typer.Option(help="How many singular values to amplify.")] = 4,
    gain: Annotated[float, typer.Option(help="Factor on each of them.")] = 10.0,
    centred: Annotated[bool, typer.Option("--centred", help="Subtract the channel means before the SVD.")] = False,
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
    from pydantic import ValidationError

    from kdguard.export.errors import UserError, first_problem
    from kdguard.export.files import check_outputs, write_json
    from kdguard.export.onnx_files import model_files
    from kdguard.graph_passes.op import SvdPerturbAttributes
    from kdguard.runtime.harden import HardenOptions, manifest_path
    from kdguard.runtime.harden import harden as harden_file
    from kdguard.runtime.tables import number
    from kdguard.runtime.terminal import say

    check_outputs([output, manifest_path(output), json], model_files(model))
    try:
        attributes = SvdPerturbAttributes(rank=rank, gain=gain, centred=centred)
    except ValidationError as error:
        where, what = first_problem(error)
        raise UserError(f"--{where}: {what}") from error
    manifest = harden_file(
        model,
        output,
        HardenOptions(split_names(layers), split_names(op_type), placement.value, attributes, budget_db, seed),
        task=task,
        data=data,
        overrides=options.card_overrides(value_range, layout, size_multiple, extra_input),
    )
    if manifest.converted_from_opset:
        say(f"{model}: converted from opset {manifest.converted_from_opset}, which the op does not know; same answers")
    for entry in manifest.layers:
        change = entry.relative_distortion
        moved = "" if change is None else f", moved by {change:.2g} times its norm"
        say(f"{entry.layer} ({entry.op_type}): {entry.placement}, rank {entry.rank}, gain {entry.gain:g}{moved}")
        if change is not None and change < STILL:
            say(f"  {entry.layer} hardly moves: a dead map, or a gain near 1; it misleads nobody there", "yellow")
    if manifest.fidelity:
        fidelity = manifest.fidelity
        say(
            f"loss {number(fidelity.delta_psnr_db, 4)} dB on {fidelity.n} images, "
            f"hardened against clean {fidelity.psnr_between_db:.1f} dB"
        )
    else:
        say("fidelity not measured: give --data, or run `kdguard verify`", "yellow")
    say(f"wrote {output} and {manifest_path(output)}: {len(manifest.layers)} hardened layers")
    if json:
        write_json(json, manifest.model_dump())
