"""Arrays on disk that worker processes map instead of copying, each with a checksum beside it, so that damage shows."""

from __future__ import annotations

import zipfile
import zlib
from functools import cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from kdguard.export.files import atomic_path

CHUNK = 1 << 20


def store_array(path: Path, values: NDArray[np.floating]) -> None:
    """Write an array and its checksum; it appears whole or not at all."""
    with atomic_path(path) as part:
        with part.open("wb") as stream:
            np.save(stream, values)
        seal(part, path)


def seal(part: Path, target: Path) -> None:
    """Write down the checksum of what is about to take the place of `target`."""
    with atomic_path(_seal_of(target)) as path:
        path.write_text(_checksum(part))


def is_whole(path: Path, count: int) -> bool:
    """Whether an array of so many entries is there as it was written.

    A full disk or a careless copy may have cut or emptied it.
    """
    try:
        if len(np.load(path, mmap_mode="r")) != count:
            return False
        status = path.stat()
        return _seal_of(path).read_text() == _remembered(path, status.st_mtime_ns, status.st_size)
    except (OSError, ValueError, EOFError, TypeError, zipfile.BadZipFile):
        return False


def _seal_of(path: Path) -> Path:
    return path.with_name(f"{path.name}.crc32")


@cache
def _remembered(path: Path, changed_ns: int, size: int) -> str:
    """Checksum of a file as it is since that time: many recipes read the same ones."""
    return _checksum(path)


def _checksum(path: Path) -> str:
    found = 0
    with path.open("rb") as stream:
        while chunk := stream.read(CHUNK):
            found = zlib.crc32(chunk, found)
    return f"{found:08x}"
