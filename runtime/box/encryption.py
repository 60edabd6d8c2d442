"""age's file format through pyrage, as streams: 64 KiB at a time, each piece authenticated before it is handed on.

pyrage turns exceptions of the files it is given into its own, without their kind; they are kept here and raised as
they were.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, BinaryIO

from kdguard.export.errors import UserError

if TYPE_CHECKING:
    from pyrage.x25519 import Identity


class _Source:
    """What pyrage reads from: chunks of any size, handed out as asked."""

    def __init__(self, chunks: Iterator[bytes]) -> None:
        self._chunks, self._rest = chunks, memoryview(b"")
        self.error: BaseException | None = None

    def read(self, size: int) -> bytes:
        try:
            while not self._rest:
                self._rest = memoryview(next(self._chunks))
        except StopIteration:
            return b""
        except BaseException as error:
            self.error = error
            raise
        piece, self._rest = self._rest[:size], self._rest[size:]
        return bytes(piece)


class _Target:
    """What pyrage writes to."""

    def __init__(self, write: Callable[[bytes], object]) -> None:
        self._write = write
        self.error: BaseException | None = None

    def write(self, data: bytes) -> int:
        if self.error:  # pyrage flushes its buffer after a failure too
            raise self.error
        try:
            self._write(data)
        except BaseException as error:
            self.error = error
            raise
        return len(data)

    def flush(self) -> None:
        pass


def encrypt(chunks: Iterator[bytes], output: BinaryIO, holders: Sequence[str]) -> None:
    """Encrypt a stream for holders.

    Args:
        holders: public keys.

    Raises:
        Exception: what reading or writing raised.
    """
    import pyrage

    source, target = _Source(chunks), _Target(output.write)
    try:
        pyrage.encrypt_io(source, target, [pyrage.x25519.Recipient.from_str(holder) for holder in holders])
    except BaseException as error:
        raise source.error or target.error or error from None


def decrypt(chunks: Iterator[bytes], receive: Callable[[bytes], object], keys: Sequence[Identity], where: str) -> None:
    """Decrypt a stream.

    Args:
        receive: is called with what was authenticated, in order; it may raise.
        where: the box's name, for messages.

    Raises:
        UserError: no box, not for these keys, or damaged.
        Exception: what reading or receiving raised.
    """
    import pyrage

    source, target = _Source(chunks), _Target(receive)
    try:
        pyrage.decrypt_io(source, target, keys)
    except BaseException as error:
        if kept := source.error or target.error:
            raise kept from None
        if not isinstance(error, (pyrage.DecryptError, OSError)):
            raise
        raise UserError(_what_is_wrong(str(error), where)) from None


def _what_is_wrong(message: str, where: str) -> str:
    if "No matching keys" in message:
        return (
            f"{where} is not sealed to this key: its holder is not among those of this release, or the box is damaged; "
            "ask the releaser"
        )
    if message == "Header is invalid":
        return f"{where} is no sealed box, or its beginning is damaged; give the file that `kdguard seal` wrote"
    return f"{where} is damaged, cut off or was changed since it was sealed; copy it again from where it was released"
