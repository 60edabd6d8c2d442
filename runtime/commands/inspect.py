"""`kdguard inspect`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from kdguard.runtime.commands import options


def inspect(
    model: Annotated[Path, typer.Argument(help="An ONNX model.")],
    task: options.Task = None,
    value_range: options.ValueRange = None,
    layout: options.Layout = None,
    size_multiple: options.SizeMultiple = None,
    extra_input: options.ExtraInput = None,
    json: options.Json = None,
) -> None:
    """List the feature maps that can be hardened, and those that are."""
    from dataclasses import asdict

    from rich.markup import escape
    from rich.table import Table

    from kdguard.export.files import check_outputs, write_json
    from kdguard.export.model_card import read_card
    from kdguard.export.onnx_files import load_onnx, model_files
    from kdguard.graph_passes.inventory import hardened_layers
    from kdguard.graph_passes.layers import find_layers
    from kdguard.runtime.session import resolve_card
    from kdguard.runtime.terminal import say, show

    check_outputs([json], model_files(model))
    loaded = load_onnx(model)
    overrides = options.card_overrides(value_range, layout, size_multiple, extra_input)
    card = resolve_card(loaded, task, str(model), overrides) if task or overrides else read_card(loaded)
    layers, hardened = find_layers(loaded), hardened_layers(loaded)
    placements = {entry.layer: entry for entry in hardened}
    table = Table(title=escape(f"{model.name}: {len(layers)} feature maps, {len(hardened)} hardened"))
    for heading in ("layer", "operator", "channels", "type", "read by", "kdguard"):
        # Names are copied into --layers: they may not be broken over lines.
        table.add_column(heading, no_wrap=heading == "layer", overflow="fold")
    for layer in layers:
        entry = placements.get(layer.name)
        mark = f"{entry.placement}, rank {entry.attributes['rank']}, gain {entry.attributes['gain']:g}" if entry else ""
        channels = "?" if layer.shape[1] is None else str(layer.shape[1])
        table.add_row(escape(layer.name), escape(layer.op_type), channels, layer.dtype, str(layer.consumers), mark)
    show(table)
    say(f"model card: {card.describe()}" if card else "model card: none (a foreign model; give --task)")
    if json:
        write_json(
            json,
            {
                "layers": [asdict(layer) for layer in layers],
                "hardened": [asdict(entry) for entry in hardened],
                "card": card.model_dump() if card else None,
            },
        )
