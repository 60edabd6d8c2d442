"""`kdguard seal`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from kdguard.runtime.commands import options


def seal(
    hardened: Annotated[Path, typer.Argument(help="The hardened model, an ONNX file.")],
    teacher: Annotated[Path, typer.Option("--teacher", help="The clean teacher that it was made from.")],
    holder: Annotated[
        list[str] | None,
        typer.Option("--holder", metavar="KEY", help="A holder's public key, age1...; repeat for more."),
    ] = None,
    holders: Annotated[
        list[Path] | None,
        typer.Option("--holders", metavar="FILE", help="File with public keys, one a line; # starts a comment."),
    ] = None,
    output: Annotated[
        Path | None, typer.Option("-o", "--output", help="The box to write; HARDENED with .box by default.")
    ] = None,
    augmentation: Annotated[
        Path | None,
        typer.Option("--augmentation", metavar="FILE", help="JSON with hint_taps, views, hint_weight for the holders."),
    ] = None,
    gate_key: Annotated[
        Path | None,
        typer.Option(
            "--gate-key",
            metavar="FILE",
            help="Secret of `kdguard keygen --gate` that opens the gate in HARDENED, for the holders.",
        ),
    ] = None,
    sign_with: Annotated[
        Path | None, typer.Option("--sign-with", metavar="FILE", help="Secret key of `kdguard keygen --signing`.")
    ] = None,
    unsigned: Annotated[
        bool, typer.Option("--unsigned", help="Leave it unsigned, even where it replaces a box that may be signed.")
    ] = False,
    json: options.Json = None,
) -> None:
    """Seal the clean teacher for the holders of keys, in a box beside the hardened model."""
    from kdguard.export.errors import UserError
    from kdguard.export.files import check_outputs, write_json
    from kdguard.export.onnx_files import model_files
    from kdguard.runtime.box.contents import default_box
    from kdguard.runtime.box.key_files import warn_of_readable
    from kdguard.runtime.box.keys import collect_holders
    from kdguard.runtime.box.seal import read_augmentation, read_gate_key
    from kdguard.runtime.box.seal import seal as seal_file
    from kdguard.runtime.box.signing import read_signing_key
    from kdguard.runtime.terminal import say
    from kdguard.runtime.wording import counted

    box = output or default_box(hardened)
    inputs = [*model_files(hardened), *model_files(teacher), *(holders or ()), augmentation, gate_key, sign_with]
    check_outputs([box, json], inputs)
    if unsigned and sign_with:
        raise UserError("--unsigned and --sign-with contradict each other; leave one of them out")
    # Whether the one that is there is signed lies inside the encryption.
    if box.exists() and not (unsigned or sign_with):
        raise UserError(
            f"{box} is there already and may be signed, which only its holders can see; sign this one too with "
            "--sign-with, give another name with -o, or replace it with --unsigned"
        )
    keys = collect_holders(holder or (), holders or ())
    signing_key = read_signing_key(sign_with) if sign_with else None
    warn_of_readable(sign_with, gate_key)
    report = seal_file(
        hardened,
        teacher,
        box,
        keys,
        augmentation=read_augmentation(augmentation) if augmentation else None,
        gate_key=read_gate_key(gate_key, hardened) if gate_key else None,
        signing_key=signing_key,
    )
    if report.sealed_bytes == report.teacher_bytes:
        say(f"{hardened} shares no weights with {teacher}: is this its teacher?", "yellow")
    signed = f"signed by {report.signed_by[:12]}" if report.signed_by else "not signed"
    say(
        f"wrote {box}: sealed to {counted(report.holders, 'holder')}, {signed}; {report.sealed_bytes} of the teacher's "
        f"{report.teacher_bytes} bytes are in it, the others in the hardened model"
    )
    if json:
        write_json(json, report.model_dump())
