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
    json: options.Json = None,
) -> None:
    """Make a key pair: a holder's, or a releaser's to sign with. No key file is ever replaced."""
    from kdguard.export.files import check_outputs, write_json
    from kdguard.runtime.box.key_files import check_new, public_path
    from kdguard.runtime.box.keys import make_holder_key
    from kdguard.runtime.box.signing import make_signing_key
    from kdguard.runtime.terminal import say

    public = public_path(output)
    for path in (output, public):
        check_new(path)
    check_outputs([output, public, json], [])
    name = make_signing_key(output) if signing else make_holder_key(output)
    if signing:
        say(f"wrote {output}, which signs boxes and is nobody else's business, and {public} for the holders")
        say(f"public key, SHA-256: {name}")
    else:
        say(f"wrote {output}, which opens boxes and is nobody else's business, and {public} for the releaser")
        say(f"public key: {name}")
    if json:
        kind = {"kind": "signing", "public_key_sha256": name} if signing else {"kind": "holder", "public_key": name}
        write_json(json, {**kind, "secret_file": output.name, "public_file": public.name})
