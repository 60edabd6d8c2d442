"""`kdguard gate`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from kdguard.runtime.commands import options


def gate(
    hardened: Annotated[Path, typer.Argument(help="The hardened model.")],
    output: Annotated[Path, typer.Option("-o", "--output", help="The gated model to write, an ONNX file.")],
    holders: Annotated[
        list[Path] | None,
        typer.Option(
            "--holder", metavar="FILE", help="Digest of a holder's key, of `kdguard keygen --gate`; repeat it."
        ),
    ] = None,
    hints: Annotated[
        list[str] | None,
        typer.Option(metavar="GLOB[:RANK]", help="Layers that a key opens hints of; repeat it. Rank 4 by default."),
    ] = None,
    ensemble: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR",
            help="Let a key open a self-ensemble too, over those flips that cost nothing on these image pairs.",
        ),
    ] = None,
    json: options.Json = None,
) -> None:
    """Put a key gate into a hardened model: everybody runs it, a key gives the clean path and hints."""
    from kdguard.export.errors import UserError
    from kdguard.export.files import check_onnx_name, check_outputs, write_json
    from kdguard.export.large_models import data_path, is_large
    from kdguard.export.onnx_files import load_onnx, model_files
    from kdguard.graph_passes.inventory import hardened_layers
    from kdguard.graph_passes.key_gate import read_gate
    from kdguard.runtime.box.choose_views import find_ensemble
    from kdguard.runtime.box.gate_keys import collect_digests, parse_hints
    from kdguard.runtime.manifest import manifest_path
    from kdguard.runtime.terminal import say
    from kdguard.runtime.wording import counted
    from kdguard.runtime.write_gated import write_gated

    check_onnx_name(output)
    inputs = [*model_files(hardened), *(holders or ())]
    check_outputs([output, manifest_path(output), json], inputs)
    digests, ranks = collect_digests(holders or ()), parse_hints(hints or ())
    model = load_onnx(hardened)
    if is_large(model):
        check_outputs([data_path(output)], inputs)
    if read_gate(model) is not None:
        raise UserError(f"{hardened} has a key gate already; gate the hardened model that it was made from anew")
    views = find_ensemble(model, hardened, ensemble, ranks) if ensemble else None
    _, report = write_gated(model, hardened, output, digests, ranks, views)
    keys, driven, hinted = (
        counted(len(found), word)
        for found, word in ((report.holders, "key"), (report.driven, "layer"), (report.hints, "layer"))
    )
    opens = [f"switches {driven} to the clean map", f"gives hints of {hinted}"]
    if report.views:
        opens.append(f"gives the mean of {counted(len(report.views), 'view')}")
    say(
        f"wrote {output} for {keys}: a right one {', '.join(opens)}; the gate adds "
        f"{report.added_bytes / 1000:.0f} kB. Whoever edits the graph can take it out"
    )
    if not report.checked:
        say(
            f"{hardened} has no card, so what the gate changes was not looked at; harden the teacher with --task",
            "yellow",
        )
    if not hardened_layers(model):
        say(f"nothing is hardened in {hardened}: whoever has the file has all of it, with a key or without", "yellow")
    if json:
        write_json(json, report.model_dump())
