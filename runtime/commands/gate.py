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
    json: options.Json = None,
) -> None:
    """Put a key gate into a hardened model: everybody runs it, a key gives the clean path and hints."""
    from kdguard.export.files import check_onnx_name, check_outputs, write_json
    from kdguard.export.onnx_files import load_onnx, model_files, save_onnx
    from kdguard.graph_passes.insert_key_gate import gate_model
    from kdguard.graph_passes.key_gate import read_gate
    from kdguard.runtime.box.gate_keys import collect_digests, parse_hint
    from kdguard.runtime.gated_manifest import GateReport, write_gated_manifest
    from kdguard.runtime.manifest import manifest_path
    from kdguard.runtime.terminal import say
    from kdguard.runtime.wording import counted

    check_onnx_name(output)
    check_outputs([output, manifest_path(output), json], [*model_files(hardened), *(holders or ())])
    digests = collect_digests(holders or ())
    ranks = dict(map(parse_hint, hints or ()))
    model = load_onnx(hardened)
    gated = gate_model(model, digests, ranks)
    save_onnx(gated, output)
    written = read_gate(gated)
    assert written is not None
    report = GateReport(
        gated=output.name,
        hardened=hardened.name,
        holders=[digest.name for digest in written.digests],
        hints={hint.layer: hint.rank for hint in written.hints},
        driven=list(written.driven),
        added_bytes=gated.ByteSize() - model.ByteSize(),
    )
    write_gated_manifest(hardened, output, report)
    keys, driven, hinted = (
        counted(len(found), word)
        for found, word in ((report.holders, "key"), (report.driven, "layer"), (report.hints, "layer"))
    )
    say(
        f"wrote {output}: {keys} open it, switch {driven} to the clean map and give hints of {hinted}; "
        f"{report.added_bytes / 1000:.0f} kB more. Whoever edits the graph can take the gate out"
    )
    if json:
        write_json(json, report.model_dump())
