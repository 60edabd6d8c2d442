"""`kdguard keygen`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from kdguard.runtime.commands import options


def keygen(
    output: Annotated[
        Path, typer.Option("-o", "--output", help="New file for the secret key; the public one is OUTPUT.pub.")
    ],
    signing: Annotated[
        bool, typer.Option("--signing", help="A releaser's key to sign boxes with, instead of a holder's to open them.")
    ] = False,
    gate: Annotated[
        bool, typer.Option("--gate", help="A holder's key to a gate in the graph; its digest goes to the releaser.")
    ] = False,
    json: options.Json = None,
) -> None:
    """Make a key pair: a holder's, for boxes or gates, or a releaser's to sign with. No key file is ever replaced."""
    from kdguard.export.errors import UserError
    from kdguard.export.files import check_outputs, write_json
    from kdguard.runtime.box.gate_keys import make_gate_key
    from kdguard.runtime.box.key_files import check_new, public_path
    from kdguard.runtime.box.keys import make_holder_key
    from kdguard.runtime.box.signing import make_signing_key
    from kdguard.runtime.terminal import say

    if signing and gate:
        raise UserError("--signing and --gate are keys of two kinds; make one, then the other")
    public = public_path(output)
    for path in (output, public):
        check_new(path)
    check_outputs([output, public, json], [])
    if gate:
        name = make_gate_key(output).name
        kind = {"kind": "gate", "digest_name": name}
        say(f"wrote {output}, which opens gates and is nobody else's business, and {public} for the releaser")
        say(f"digest: {name}")
    elif signing:
        name = make_signing_key(output)
        kind = {"kind": "signing", "public_key_sha256": name}
        say(f"wrote {output}, which signs boxes and is nobody else's business, and {public} for the holders")
        say(f"public key, SHA-256: {name}")
    else:
        name = make_holder_key(output)
        kind = {"kind": "holder", "public_key": name}
        say(f"wrote {output}, which opens boxes and is nobody else's business, and {public} for the releaser")
        say(f"public key: {name}")
    if json:
        write_json(json, {**kind, "secret_file": output.name, "public_file": public.name})
