"""`kdguard unlock`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from kdguard.runtime.commands import options


def unlock(
    hardened: Annotated[Path, typer.Argument(help="The hardened model that the box goes with.")],
    key: Annotated[Path, typer.Option("--key", metavar="FILE", help="A holder's secret key, of `kdguard keygen`.")],
    output: Annotated[
        Path | None,
        typer.Option("-o", "--output", help="The clean teacher to write; without it the box is only checked."),
    ] = None,
    box: Annotated[Path | None, typer.Option("--box", help="HARDENED with .box by default.")] = None,
    signed_by: Annotated[
        Path | None,
        typer.Option(
            "--signed-by", metavar="FILE", help="The releaser's public signing key: no other's box is opened."
        ),
    ] = None,
    gate_key_output: Annotated[
        Path | None, typer.Option("--gate-key-output", metavar="FILE", help="New file for the gate's key in the box.")
    ] = None,
    json: options.Json = None,
) -> None:
    """Open a box with a holder's key: check all of it, then write the clean teacher."""
    from kdguard.export.files import check_onnx_name, check_outputs, write_json
    from kdguard.export.onnx_files import model_files
    from kdguard.runtime.box.contents import Augmentation, default_box
    from kdguard.runtime.box.key_files import warn_of_readable
    from kdguard.runtime.box.unlock import unlock as unlock_file
    from kdguard.runtime.terminal import say
    from kdguard.runtime.wording import counted

    box = box or default_box(hardened)
    if output:
        check_onnx_name(output)
    check_outputs([output, gate_key_output, json], [*model_files(hardened), box, key, signed_by])
    report = unlock_file(
        hardened,
        box,
        key,
        output,
        signed_by=signed_by,
        gate_key_output=gate_key_output,
        reserved=[json] if json else [],
    )
    warn_of_readable(key)
    said = f"{box}: sealed to {counted(report.holders, 'holder')} by kdguard {report.kdguard_version}"
    if report.signed_by is None:
        say(f"{said}; it is not signed: anybody who knows your public key could have made it", "yellow")
    elif report.signer_checked:
        say(f"{said}, signed by the key in {signed_by}")
    else:
        say(
            f"{said}, signed by the key with SHA-256 {report.signed_by}; say with --signed-by whose it must be",
            "yellow",
        )
    if output:
        say(f"wrote {output}, the clean teacher (SHA-256 {report.teacher_sha256}), readable by you alone")
    if gate_key_output:
        say(f"wrote {gate_key_output}, the gate's key, readable by you alone")
    elif report.gate_key:
        say("it holds a gate's key too: --gate-key-output FILE writes it")
    if report.augmentation != Augmentation():
        say("it holds settings for training from the teacher: --json FILE writes them")
    if json:
        write_json(json, report.model_dump())
