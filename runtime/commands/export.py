"""`kdguard export`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from kdguard.runtime.commands import options


def export(
    source: Annotated[str, typer.Argument(help="package.module:factory that builds the teacher.")],
    output: Annotated[Path, typer.Option("-o", "--output", help="The .onnx file to write.")],
    weights: Annotated[
        Path | None, typer.Option("--weights", help=".safetensors, or a torch file of tensors only.")
    ] = None,
    task: Annotated[str | None, typer.Option("--task", help=f"For the model card: {options.TASK_NAMES}.")] = None,
    path: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Folder to import from; the current one by default.")
    ] = None,
    data: Annotated[
        Path | None,
        typer.Option(
            "--data", metavar="DIR", help="Folder with degraded/ or clean/ to compare on; own photographs else."
        ),
    ] = None,
    opset: Annotated[int, typer.Option(help="ONNX operator set, 18 or newer.")] = 18,
    channels: Annotated[int, typer.Option(help="Image channels, 1 or 3.")] = 3,
    layout: Annotated[str, typer.Option(help="NCHW or NHWC.")] = "NCHW",
    value_range: Annotated[
        tuple[float, float],
        typer.Option("--value-range", metavar="LOW HIGH", help="What black and white are to the model: -1 1, say."),
    ] = (0.0, 1.0),
    size_multiple: Annotated[int, typer.Option(help="Height and width must be multiples of it.")] = 1,
    json: options.Json = None,
) -> None:
    """Export a torch teacher to ONNX, checked against torch on real images."""
    from pydantic import ValidationError

    from kdguard.export.errors import UserError, first_problem
    from kdguard.export.files import check_onnx_name, check_outputs, write_json
    from kdguard.export.image_pairs import load_degraded
    from kdguard.export.model_card import ModelCard
    from kdguard.export.torch_export import export_teacher
    from kdguard.runtime.terminal import say
    from kdguard.runtime.wording import counted

    check_onnx_name(output)
    check_outputs([output, json], [weights])
    try:
        card = ModelCard.model_validate(
            {
                "task": task,
                "input_name": "image",
                "output_name": "restored",
                "layout": layout,
                "channels": channels,
                "value_range": value_range,
                "size_multiple": size_multiple,
            }
        )
    except ValidationError as error:
        where, what = first_problem(error)
        raise UserError(f"--{where.split('.', maxsplit=1)[0].replace('_', '-')}: {what}") from error
    images = load_degraded(data, channels) if data else None
    report = export_teacher(source, weights, output, task=task, images=images, card=card, opset=opset, search_path=path)
    if weights is None:
        say("no --weights: the file holds the weights that the factory made", "yellow")
    if task is None:
        say("no --task: later commands will ask for it", "yellow")
    say(
        f"exported {output}: opset {report.opset}, scale {report.card.scale}, differs from torch by "
        f"{report.max_abs_error:.1e} on {counted(report.images, 'real image')}"
    )
    if json:
        write_json(
            json,
            {
                "output": str(output),
                "card": report.card.model_dump(),
                "opset": report.opset,
                "images": report.images,
                "max_abs_error": report.max_abs_error,
            },
        )
