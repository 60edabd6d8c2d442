"""`kdguard inspect`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from kdguard.runtime.commands import options


def inspect(
    model: Annotated[Path, typer.Argument(help="An ONNX model.")],
    json: options.Json = None,
) -> None:
    """List the feature maps that can be hardened, and those that are."""
    from dataclasses import asdict

    from rich.table import Table

    from kdguard.export.files import check_writable, write_json
    from kdguard.export.model_card import read_card
    from kdguard.export.onnx_files import load_onnx
    from kdguard.graph_passes.inventory import hardened_layers
    from kdguard.graph_passes.layers import find_layers
    from kdguard.runtime.terminal import say, show

    if json:
        check_writable(json)
    loaded = load_onnx(model)
    layers, hardened, card = find_layers(loaded), hardened_layers(loaded), read_card(loaded)
    placements = {entry.layer: entry for entry in hardened}
    table = Table(title=f"{model.name}: {len(layers)} feature maps, {len(hardened)} hardened")
    for heading in ("layer", "operator", "shape", "type", "read by", "kdguard"):
        table.add_column(heading, overflow="fold")
    for layer in layers:
        entry = placements.get(layer.name)
        mark = f"{entry.placement}, rank {entry.attributes['rank']}, gain {entry.attributes['gain']:g}" if entry else ""
        shape = " x ".join("?" if side is None else str(side) for side in layer.shape)
        table.add_row(layer.name, layer.op_type, shape, layer.dtype, str(layer.consumers), mark)
    show(table)
    say(f"card: {card.model_dump_json()}" if card else "card: none (a foreign model; give --task)")
    if json:
        write_json(
            json,
            {
                "layers": [asdict(layer) for layer in layers],
                "hardened": [asdict(entry) for entry in hardened],
                "card": card.model_dump() if card else None,
            },
        )
