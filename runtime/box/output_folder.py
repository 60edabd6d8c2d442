"""Where an unlocked teacher is written: a private folder first, beside its place, then its place."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import BinaryIO

from kdguard.export.errors import UserError
from kdguard.export.files import real_path, remove
from kdguard.runtime.box.contents import BoxContents
from kdguard.runtime.box.key_files import SECRET_MODE
from kdguard.runtime.box.receive import Open


def check_names(output: Path, contents: BoxContents, reserved: Sequence[Path]) -> None:
    """Refuse data files that would replace something.

    Args:
        output: the model file to write.
        reserved: other files that are going to be written.

    Raises:
        UserError: the name of the first one.
    """
    taken = {real_path(path) for path in (output, *reserved)}
    for name in contents.data:
        first = output.parent / PurePosixPath(name).parts[0]
        if real_path(first) in taken or os.path.lexists(first):
            what = "is there already" if os.path.lexists(first) else "is another output's name"
            raise UserError(
                f"cannot write the teacher's data file {name!r}: {first} {what}; give -o in an empty folder"
            )


def writer(folder: Path, output: Path) -> Open:
    """Opens the teacher's files in a folder of its own, each for its owner alone."""

    @contextmanager
    def write(name: str | None) -> Iterator[BinaryIO]:
        path = folder / (name or output.name)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, SECRET_MODE), "wb") as stream:
                yield stream
        except OSError as error:
            raise UserError(f"cannot write {output.parent / path.name}: {error.strerror}") from error

    return write


def move_into_place(folder: Path, output: Path) -> None:
    """Move the model and its data files out of their folder, the model last: all of them or none.

    Raises:
        UserError: something of a data file's name has appeared meanwhile, or they cannot be moved.
    """
    moved: list[Path] = []
    try:
        for entry in sorted(path for path in folder.iterdir() if path.name != output.name):
            target = output.parent / entry.name
            if os.path.lexists(target):
                raise UserError(f"cannot write {target}: it is there already; give -o in an empty folder")
            entry.rename(target)
            moved.append(target)
        (folder / output.name).replace(output)
    except BaseException as error:
        for target in moved:
            remove(target)
        if isinstance(error, OSError):
            raise UserError(f"cannot write {output}: {error.strerror}") from error
        raise
