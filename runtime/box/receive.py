"""What comes out of a box, checked while it is decrypted: nothing is believed before its last byte is in."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Generator, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import BinaryIO, TypeVar

from pydantic import TypeAdapter, ValidationError

from kdguard.export.errors import UserError
from kdguard.runtime.box.contents import LONGEST_LINE, MAGIC, BoxContents, Hashes, SealedFile, Signature
from kdguard.runtime.box.difference import read_range
from kdguard.runtime.box.signing import is_signed, signer_of

_LINE = 0
"""A request for a line; any other number asks for at most so many bytes."""

Open = Callable[[str | None], AbstractContextManager[BinaryIO]]
"""Opens a file to write a part of the teacher to: a data file by its location, None for the model file."""

T = TypeVar("T")


class Receiver:
    """Takes a decrypted box piece by piece, writes the teacher's files, and says at the end whether all of it holds.

    Args:
        where: the box's name, for messages.
        sources: files of the hardened model, as `model_files` lists them.
        check: is called with what the box says before anything is written; may refuse it.
        open_file: where the teacher goes.

    Attributes:
        contents: what the box says.
        hashes: of the teacher.
        signed_by: SHA-256 of the raw public key that signed it, None where nobody did.
    """

    def __init__(
        self, where: str, sources: Sequence[Path], check: Callable[[BoxContents], None], open_file: Open
    ) -> None:
        self._where, self._sources, self._check, self._open = where, sources, check, open_file
        self.contents: BoxContents
        self.hashes: Hashes
        self.signature: Signature | None = None
        self._held = bytearray()
        self._steps = self._read()
        self._request = next(self._steps)
        self._complete = False

    @property
    def signed_by(self) -> str | None:
        """SHA-256 of the raw public key that signed the box; None where nobody did."""
        return signer_of(self.signature.public_key) if self.signature else None

    def write(self, data: bytes) -> None:
        """Take the next piece of the stream.

        Raises:
            UserError: the box is not what it should be, or the files cannot be written.
        """
        if not self._held and len(data) <= self._request:  # the long runs, without copies
            self._request = self._steps.send(data)
            return
        self._held += data
        while (given := self._next()) is not None:
            self._request = self._steps.send(given)

    def close(self) -> None:
        """Let go of open files, whatever has come."""
        self._steps.close()

    def finish(self) -> None:
        """See that the box ended where it should.

        Raises:
            UserError: it did not.
        """
        if not self._complete:
            raise self._malformed("it ends too early")

    def _next(self) -> bytes | None:
        """What was asked for, where it has come."""
        length = self._request
        if length == _LINE:
            length = self._held.find(b"\n") + 1
            if not length and len(self._held) > LONGEST_LINE:
                raise self._malformed("a line has no end")
        if not length or not self._held:
            return None
        given = bytes(self._held[:length])
        del self._held[:length]
        return given

    def _read(self) -> Generator[int, bytes, None]:
        """The box from its first byte to its last; yields requests."""
        magic = yield _LINE
        if magic != MAGIC:
            raise UserError(
                f"{self._where} was sealed by something else than this version of kdguard, or by a newer one"
            )
        head = yield _LINE
        self.contents = self._parse(TypeAdapter(BoxContents), head)
        self._check(self.contents)
        self._check_copies()
        digests = []
        for name, file in zip(self.contents.names, self.contents.files, strict=True):
            digests.append((yield from self._receive(name, file)))
        tail = yield _LINE
        self.hashes = self._parse(TypeAdapter(Hashes), tail)
        if self.hashes.sha256 != digests:
            raise UserError(
                f"{self._where}: the teacher in it is not the one that it states (SHA-256); ask the releaser"
            )
        signature: TypeAdapter[Signature | None] = TypeAdapter(Signature | None)
        self.signature = self._parse(signature, (yield _LINE))
        if self.signature and not is_signed(magic + head + tail, self.signature):
            raise UserError(f"{self._where}: its signature is not valid; do not use it, ask the releaser")
        self._complete = True
        yield 1
        raise self._malformed("something follows its end")

    def _receive(self, name: str | None, file: SealedFile) -> Generator[int, bytes, str]:
        """One file of the teacher; its SHA-256."""
        digest = hashlib.sha256()
        with self._open(name) as target:
            for piece in file.pieces:
                left = piece.length
                if piece.source is not None:
                    for chunk in read_range(self._sources[piece.source], piece.offset, piece.length):
                        digest.update(chunk)
                        target.write(chunk)
                    continue
                while left:
                    chunk = yield left
                    digest.update(chunk)
                    target.write(chunk)
                    left -= len(chunk)
        return digest.hexdigest()

    def _check_copies(self) -> None:
        """Refuse copies of what the hardened model does not have, and more of them than it has bytes."""
        sizes = [path.stat().st_size for path in self._sources]
        left = sum(sizes)
        for piece in (piece for file in self.contents.files for piece in file.pieces):
            if piece.source is None:
                continue
            left -= piece.length
            if piece.source >= len(sizes) or piece.offset + piece.length > sizes[piece.source] or left < 0:
                raise self._malformed("it copies what the hardened model does not have")

    def _parse(self, kind: TypeAdapter[T], line: bytes) -> T:
        try:
            return kind.validate_json(line)
        except ValidationError:  # quotes values, some of which are secret
            raise self._malformed("what it says of itself does not make sense") from None

    def _malformed(self, why: str) -> UserError:
        return UserError(f"{self._where} is no box that kdguard seals: {why}; ask the releaser")
