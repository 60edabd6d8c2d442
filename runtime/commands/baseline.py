"""`kdguard baseline`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from kdguard.runtime.commands import options
from kdguard.runtime.commands.options import split_names

if TYPE_CHECKING:
    from kdguard.runtime.defences.calibrate import DefenceReport


def _list_defences(asked: bool) -> None:
    if not asked:
        return
    from rich.table import Table

    from kdguard.runtime.defences import DEFENCES
    from kdguard.runtime.terminal import show

    table = Table("defence", "strength is the", "source")
    for defence in DEFENCES.values():
        table.add_row(defence.name, defence.unit, defence.source)
    show(table)
    raise typer.Exit


def baseline(
    defence: Annotated[str, typer.Argument(help="A defence from the literature; --list shows them.")],
    model: Annotated[Path, typer.Argument(help="The teacher, an ONNX model.")],
    output: Annotated[Path, typer.Option("-o", "--output", help="The defended .onnx file to write.")],
    data: options.Data,
    layers: Annotated[
        list[str] | None,
        typer.Option(
            "--layers",
            metavar="GLOB",
            help="Feature maps to change; a third, a half and two thirds of the way through by default.",
        ),
    ] = None,
    task: options.Task = None,
    budget_db: options.BudgetDb = 0.1,
    seed: options.Seed = 0,
    value_range: options.ValueRange = None,
    layout: options.Layout = None,
    size_multiple: options.SizeMultiple = None,
    extra_input: options.ExtraInput = None,
    json: options.Json = None,
    list_defences: Annotated[
        bool, typer.Option("--list", callback=_list_defences, is_eager=True, help="Show the defences and stop.")
    ] = False,
) -> None:
    """Apply a prior defence, as strong as the budget allows: what hardening is compared with."""
    from kdguard.export.files import check_onnx_name, check_outputs, write_json
    from kdguard.export.image_pairs import load_pairs
    from kdguard.export.model_card import write_card
    from kdguard.export.onnx_files import load_onnx, model_files, save_onnx
    from kdguard.export.tasks import get_task
    from kdguard.graph_passes.inventory import hardened_layers
    from kdguard.graph_passes.layers import find_layers, select_layers
    from kdguard.runtime.defences import Subject, get_defence
    from kdguard.runtime.defences.calibrate import calibrate, middle_layers
    from kdguard.runtime.fidelity import check_budget
    from kdguard.runtime.resolve_card import resolve_card
    from kdguard.runtime.terminal import say

    check_budget(budget_db)
    chosen = get_defence(defence)
    check_onnx_name(output)
    check_outputs([output, json], model_files(model))
    teacher = load_onnx(model)
    overrides = options.card_overrides(value_range, layout, size_multiple, extra_input)
    card = resolve_card(teacher, task, str(model), overrides, data)
    if before := [layer.layer for layer in hardened_layers(teacher)]:
        text = "holds kdguard nodes already; the defence is added to them and measured against the model with them"
        say(f"{model} {text} ({', '.join(before)})", "yellow")
    pairs = load_pairs(data, get_task(card.task), card.channels, card.scale, seed)
    globs = split_names(layers)
    names = [layer.name for layer in select_layers(find_layers(teacher), globs)] if globs else middle_layers(teacher)
    result = calibrate(chosen, Subject(teacher, card, names, pairs, seed), budget_db)
    write_card(result.model, card)
    save_onnx(result.model, output)
    for line, style in _described(result.report):
        say(line, style)
    say(f"wrote {output}")
    if json:
        write_json(json, result.report.model_dump())


def _described(report: DefenceReport) -> list[tuple[str, str]]:
    """What was done, as lines with their styles."""
    from kdguard.runtime.auto.split import CHECK_IMAGES
    from kdguard.runtime.wording import change, counted

    fidelity, strength = report.fidelity, f"{report.defence}: strength {report.strength:.3g} ({report.unit})"
    images = counted(fidelity.n, "image")
    lines = [
        (f"{strength}, the strongest that is tried; it keeps both gates, and more might", "yellow")
        if report.at_limit
        else (f"{strength}, the strongest that keeps both gates", ""),
        (
            f"the defended model {change(fidelity.delta_psnr_db, 4)} on {images}, defended against clean "
            f"{fidelity.psnr_between_db:.1f} dB, at least {fidelity.psnr_between_floor_db:.1f} asked for",
            "",
        ),
    ]
    if report.layers:
        lines.append((f"changes {', '.join(report.layers)}; attack it with --tap {report.layers[-1]}", ""))
    else:
        lines.append(("changes no single feature map; attack it with --tap at any that `kdguard inspect` lists", ""))
    if fidelity.n < CHECK_IMAGES:
        lines.append((f"strength and gates rest on {images}; {CHECK_IMAGES} or more tell more", "yellow"))
    return lines
