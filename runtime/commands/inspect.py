"""`kdguard inspect`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from kdguard.runtime.commands import options

if TYPE_CHECKING:
    import onnx

    from kdguard.export.model_card import ModelCard
    from kdguard.runtime.analysis import Analysis


def inspect(
    model: Annotated[Path, typer.Argument(help="An ONNX model.")],
    task: options.Task = None,
    data: options.OptionalData = None,
    cache: options.Cache = None,
    seed: options.Seed = 0,
    value_range: options.ValueRange = None,
    layout: options.Layout = None,
    size_multiple: options.SizeMultiple = None,
    extra_input: options.ExtraInput = None,
    json: options.Json = None,
) -> None:
    """List the feature maps that can be hardened, and those that are; with --data also what they are like."""
    from dataclasses import asdict

    from rich.markup import escape

    from kdguard.export.errors import UserError
    from kdguard.export.files import check_outputs, write_json
    from kdguard.export.model_card import read_card
    from kdguard.export.onnx_files import default_opset, load_onnx, model_files
    from kdguard.graph_passes.inventory import hardened_layers
    from kdguard.graph_passes.key_gate import read_gate
    from kdguard.graph_passes.key_gate.views import ensemble_views
    from kdguard.graph_passes.layers import find_layers
    from kdguard.runtime.manifest import find_manifest, tell_placements
    from kdguard.runtime.resolve_card import resolve_card
    from kdguard.runtime.tables import analysis_table, layer_table
    from kdguard.runtime.terminal import say, show
    from kdguard.runtime.upgrade import needs_upgrade, upgrade_checked
    from kdguard.runtime.wording import converted, counted

    if cache and data is None:
        raise UserError(f"--cache {cache}: only measurements are kept there, and without --data nothing is measured")
    check_outputs([json], model_files(model))
    loaded = load_onnx(model)
    overrides = options.card_overrides(value_range, layout, size_multiple, extra_input)
    card = resolve_card(loaded, task, str(model), overrides, data) if task or overrides or data else read_card(loaded)
    old_opset = None
    if data and card and needs_upgrade(loaded):  # as `harden` will: the probe is made of the op
        old_opset = default_opset(loaded)
        loaded = upgrade_checked(loaded, card, str(model))
        say(converted(model, old_opset))
    layers, hardened = find_layers(loaded), tell_placements(hardened_layers(loaded), find_manifest(model))
    title = escape(f"{model.name}: {counted(len(layers), 'feature map')}, {len(hardened)} hardened")
    analysis = _analyse(loaded, card, data, cache, seed) if data and card else None
    show(analysis_table(analysis, layers, hardened, title) if analysis else layer_table(layers, hardened, title))
    say(f"model card: {card.describe()}" if card else "model card: none (a foreign model; give --task)")
    gate = read_gate(loaded)
    if gate:
        views = ensemble_views(loaded)
        say(f"key gate: {gate.describe()}{f'; an ensemble of {len(views)} views' if views else ''}")
    if json:
        write_json(
            json,
            {
                "layers": [asdict(layer) for layer in layers],
                "hardened": [asdict(entry) for entry in hardened],
                "card": card.model_dump() if card else None,
                "gate": {**gate.summary(), "views": list(ensemble_views(loaded))} if gate else None,
                "converted_from_opset": old_opset,
                "analysis": analysis.model_dump() if analysis else None,
            },
        )


def _analyse(model: onnx.ModelProto, card: ModelCard, data: Path, cache: Path | None, seed: int) -> Analysis:
    from kdguard.export.image_pairs import load_pairs
    from kdguard.export.tasks import get_task
    from kdguard.runtime.analysis import analyse

    pairs = load_pairs(data, get_task(card.task), card.channels, card.scale, seed)
    return analyse(model, card, pairs, cache=cache)
