"""Unlocking: the teacher back from its box and its hardened model, to files or in memory.

Everything is verified first: key, damage, the hardened model's hash, the teacher's, the signature. A file takes its
place after that.
"""

from __future__ import annotations

import io
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from tempfile import TemporaryDirectory
from typing import BinaryIO

import onnx
from onnx.external_data_helper import uses_external_data
from pydantic import BaseModel, Field

from kdguard.export import large_models
from kdguard.export.errors import UserError, first_line
from kdguard.export.files import check_writable
from kdguard.export.onnx_files import PROTOBUF_LIMIT, all_tensors, model_files, read_outline, sha256_of_model
from kdguard.runtime.box import key_files
from kdguard.runtime.box.contents import Augmentation, BoxContents
from kdguard.runtime.box.difference import chunk_count, read_range
from kdguard.runtime.box.encryption import decrypt
from kdguard.runtime.box.keys import fingerprint, read_holder_key
from kdguard.runtime.box.output_folder import check_names, move_into_place, writer
from kdguard.runtime.box.receive import Open, Receiver
from kdguard.runtime.box.seal import check_hardened
from kdguard.runtime.box.signing import read_verifying_key, signer_of
from kdguard.runtime.terminal import progress_bar


class UnlockReport(BaseModel):
    """What a box held; neither the holder's key nor the gate's is in it."""

    box: str = Field(description="file name")
    kdguard_version: str = Field(description="that sealed it")
    hardened_sha256: str
    teacher: str | None = Field(description="file name of what was written; None where nothing was")
    teacher_sha256: str
    holders: int
    signed_by: str | None = Field(description="SHA-256 of the raw public key that signed it; None where nobody did")
    signer_checked: bool = Field(description="against the key that was given for it")
    augmentation: Augmentation
    gate_key: bool = Field(description="whether there is one")


@dataclass(frozen=True)
class UnlockedModel:
    """A teacher in memory, and what was sealed with it."""

    model: onnx.ModelProto
    contents: BoxContents
    report: UnlockReport


def unlocked_model(hardened: Path, box: Path, key: Path, *, signed_by: Path | None = None) -> UnlockedModel:
    """The teacher from a box, in memory; nothing is written to the disk.

    Args:
        hardened: the model that the box goes with.
        key: file with a holder's secret key.
        signed_by: file with the releaser's public signing key, if only his boxes are to be opened.

    Raises:
        UserError: anything that is not as it should be, or weights in data files of more than
            `large_models.INLINE_LIMIT` bytes: unlock those to a file.
    """

    def check(contents: BoxContents) -> None:
        outside = sum(file.size for file in contents.data.values())
        if outside > large_models.INLINE_LIMIT or contents.model.size > PROTOBUF_LIMIT:
            raise UserError(f"{box}: the teacher is too large to hold in memory; unlock it to a file")

    parts: dict[str | None, bytes] = {}

    @contextmanager
    def keep(name: str | None) -> Iterator[BinaryIO]:
        stream = io.BytesIO()
        yield stream
        parts[name] = stream.getvalue()

    received = _receive(hardened, box, key, signed_by, check, keep)
    return UnlockedModel(_from_memory(parts, box), received.contents, _report(box, received, None, signed_by))


def _from_memory(parts: dict[str | None, bytes], box: Path) -> onnx.ModelProto:
    """A model from the bytes of its files, data files by location."""
    try:
        model = onnx.load_model_from_string(parts[None])
        for tensor in (tensor for tensor in all_tensors(model) if uses_external_data(tensor)):
            entries = {entry.key: entry.value for entry in tensor.external_data}
            data, offset = parts[PurePosixPath(entries["location"]).as_posix()], int(entries.get("offset", 0))
            length = int(entries.get("length", len(data) - offset))
            if min(offset, length) < 0 or offset + length > len(data):
                raise ValueError(f"tensor {tensor.name!r} reaches outside its data file")
            tensor.raw_data = data[offset : offset + length]
            tensor.data_location = onnx.TensorProto.DEFAULT
            del tensor.external_data[:]
        onnx.checker.check_model(model)
    except Exception as error:  # whatever protobuf and onnx raise about bytes that are no model
        raise UserError(
            f"{box}: what is sealed in it is no valid model ({first_line(error)}); ask the releaser"
        ) from error
    return model


def unlock(
    hardened: Path,
    box: Path,
    key: Path,
    output: Path | None = None,
    *,
    signed_by: Path | None = None,
    gate_key_output: Path | None = None,
    reserved: Sequence[Path] = (),
) -> UnlockReport:
    """Check a box and write the teacher in it, for its owner's eyes alone (mode 0600).

    Weights in data files are written in pieces, under their own names beside the model; they replace nothing.

    Args:
        hardened: the model that the box goes with.
        key: file with a holder's secret key.
        output: the .onnx file to write; None only checks.
        signed_by: file with the releaser's public signing key, if only his boxes are to be opened.
        gate_key_output: new file for the key of a gate in the graph.
        reserved: files that the caller will write; no data file may take their names.

    Raises:
        UserError: anything that is not as it should be; then nothing is written.
    """

    def check(contents: BoxContents) -> None:
        if output:
            check_names(output, contents, [path for path in (*reserved, gate_key_output) if path])
        if gate_key_output and not contents.gate_key:
            raise UserError(f"{box} holds no key for a gate; leave out --gate-key-output")

    if gate_key_output:
        key_files.check_new(gate_key_output)
    if output is None:
        received = _receive(hardened, box, key, signed_by, check, _nowhere)
        with _gate_key(gate_key_output, received.contents):
            pass
    else:
        check_writable(output)
        with TemporaryDirectory(prefix=".kdguard-", dir=output.parent) as scratch:
            received = _receive(hardened, box, key, signed_by, check, writer(Path(scratch), output))
            _check_model(Path(scratch) / output.name, received.contents, box)
            with _gate_key(gate_key_output, received.contents):
                move_into_place(Path(scratch), output)
    return _report(box, received, output, signed_by)


@contextmanager
def _gate_key(output: Path | None, contents: BoxContents) -> Iterator[None]:
    """Write the key of a gate, where it is asked for, before the block; it goes again where the block fails."""
    if output is None or contents.gate_key is None:
        yield
        return
    key_files.create(output, contents.gate_key, key_files.SECRET_MODE)
    try:
        yield
    except BaseException:
        output.unlink()
        raise


def _check_model(path: Path, contents: BoxContents, box: Path) -> None:
    """See that an unlocked model is valid, and that every data file is one of its own.

    Raises:
        UserError: it is not; a forged box could bring any file otherwise.
    """
    read_outline(path)
    own = {file.resolve() for file in model_files(path)}
    for name in contents.data:
        if (path.parent / name).resolve() not in own:
            raise UserError(f"{box}: the model in it has no use for the file {name!r} beside it; ask the releaser")


@contextmanager
def _nowhere(_: str | None) -> Iterator[BinaryIO]:
    with Path(os.devnull).open("wb") as stream:
        yield stream


def _receive(
    hardened: Path,
    box: Path,
    key: Path,
    signed_by: Path | None,
    check: Callable[[BoxContents], None],
    open_file: Open,
) -> Receiver:
    """Decrypt a box and verify all of it; arguments as `unlock`, the last two as `Receiver`."""
    keys = read_holder_key(key)
    wanted = read_verifying_key(signed_by) if signed_by else None
    if not box.is_file():
        raise UserError(f"{box}: no such file; give the box that was released with {hardened.name}")
    check_hardened(hardened)
    actual = sha256_of_model(hardened)
    own = {fingerprint(str(identity.to_public())) for identity in keys}

    def check_binding(contents: BoxContents) -> None:
        if contents.hardened_sha256 != actual:
            raise UserError(
                f"{box} belongs to another model than {hardened} (SHA-256 {contents.hardened_sha256[:12]}, not "
                f"{actual[:12]}): one of the two was exchanged, changed or mixed up"
            )
        if own.isdisjoint(contents.holders):
            raise UserError(
                f"{box} was sealed to other holders and passed on to this key by one of them; ask the releaser for one "
                "of your own"
            )
        check(contents)

    receiver = Receiver(str(box), model_files(hardened), check_binding, open_file)
    size = box.stat().st_size
    try:
        with progress_bar("unlocking", chunk_count(size)) as advance:
            decrypt(_counted(read_range(box, 0, size), advance), receiver.write, keys, str(box))
    finally:
        receiver.close()
    receiver.finish()
    if wanted and not receiver.signature:
        raise UserError(
            f"{box} is not signed, and only a box of {signed_by}'s signer was to be opened; ask the releaser"
        )
    if wanted and receiver.signature and receiver.signature.public_key != wanted:
        raise UserError(
            f"{box} is signed by another key (SHA-256 {receiver.signed_by}) than that in {signed_by} (SHA-256 "
            f"{signer_of(wanted)}); ask the releaser"
        )
    return receiver


def _counted(chunks: Iterator[bytes], advance: Callable[[], None]) -> Iterator[bytes]:
    for chunk in chunks:
        advance()
        yield chunk


def _report(box: Path, received: Receiver, output: Path | None, signed_by: Path | None) -> UnlockReport:
    contents = received.contents
    return UnlockReport(
        box=box.name,
        kdguard_version=contents.kdguard_version,
        hardened_sha256=contents.hardened_sha256,
        teacher=output.name if output else None,
        teacher_sha256=received.hashes.teacher_sha256,
        holders=len(contents.holders),
        signed_by=received.signed_by,
        signer_checked=signed_by is not None,
        augmentation=contents.augmentation,
        gate_key=contents.gate_key is not None,
    )
