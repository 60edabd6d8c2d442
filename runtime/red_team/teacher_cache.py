"""Teacher queries, asked once and kept: one memory-mapped array per tensor, keyed by model, data and card."""

from __future__ import annotations

import errno
import hashlib
import os
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.lib.format import open_memmap
from numpy.typing import NDArray

from kdguard.export.errors import UserError
from kdguard.export.files import atomic_path, made_folder
from kdguard.export.image_tensor import image_to_tensor, model_size, tensor_to_image
from kdguard.export.tasks import Image
from kdguard.runtime.image_session import ImageSession
from kdguard.runtime.recipes.base import NothingToWorkWithError
from kdguard.runtime.red_team.code_hash import hash_code
from kdguard.runtime.red_team.stored_array import is_whole, seal, store_array
from kdguard.runtime.red_team.tile import Tile
from kdguard.runtime.red_team.views import turn, turn_back
from kdguard.runtime.terminal import progress_bar

Maps = NDArray[np.float32]
OUTPUT = ""
"""Stands for the output among tensor names; no tensor is called so."""

SPREAD = "\0"
"""Stands for how far the views' answers lie apart, likewise."""

SessionOpener = Callable[[Sequence[str]], tuple[ImageSession, tuple[int, ...]]]
"""From the tensors that are missing to a session that taps them, and the views whose answers are averaged."""


@dataclass(frozen=True)
class Answers:
    """Paths of the cached arrays, so that worker processes map them instead of copying.

    Attributes:
        output: [M, C, H * scale, W * scale] float32, in [0, 1] up to over- and undershoot.
        maps: [M, F_i, H_i, W_i] float32, one per tapped tensor.
        spread: [M, 1, H * scale, W * scale] float32, standard deviation of the output over the views, mean of the
            channels; None where it was not asked for.
    """

    output: Path
    maps: tuple[Path, ...] = ()
    spread: Path | None = None


class TeacherCache:
    """A folder of answers. Entries appear in it whole or not at all; damaged ones are asked again.

    Attributes:
        folder: where they lie; what they are answers to lies beside them.
    """

    def __init__(self, folder: Path) -> None:
        """Open the folder, making it where it is not there.

        Raises:
            UserError: it cannot be written.
        """
        self.folder = made_folder(folder, "teacher queries")

    def ask(
        self,
        key: Sequence[object],
        tiles: Sequence[Tile],
        tensors: Sequence[str],
        open_session: SessionOpener,
        description: str,
    ) -> tuple[Path, ...]:
        """One array per tensor with the model's values on every tile; only what is not there is asked for.

        The model is asked about what lies around the tiles, once per such image, and the answers are cut.

        Args:
            key: what the answers depend on, tiles and model included.
            tiles: of equal sizes.
            tensors: names of taps, `OUTPUT` and `SPREAD`.
            open_session: not called where nothing is missing.

        Raises:
            UserError: a tap is no 4-D map, or the model fails.
        """
        entry = hashlib.sha256(repr(tuple(key)).encode()).hexdigest()[:32]
        paths = {name: self.folder / f"{entry}-{_file_name(name)}.npy" for name in tensors}
        missing = [name for name, path in paths.items() if not is_whole(path, len(tiles))]
        if missing:
            session, views = open_session([name for name in missing if name not in (OUTPUT, SPREAD)])
            with progress_bar(description, len(tiles)) as advance:
                _fill(session, views, tiles, {name: paths[name] for name in missing}, advance)
            session.release()
        return tuple(paths[name] for name in tensors)

    def rework(self, answers: Answers, key: Sequence[object], change: Callable[[list[Maps]], Maps]) -> Answers:
        """The answers with another map, made of theirs once and kept.

        Args:
            key: what the change is.
        """
        parts = (*key, [path.name for path in answers.maps])
        entry = hashlib.sha256(repr(parts).encode()).hexdigest()[:32]
        target = self.folder / f"{entry}-reworked.npy"
        maps: list[Maps] = [np.load(path, mmap_mode="r") for path in answers.maps]
        if not is_whole(target, len(maps[0])):
            store_array(target, change(maps).astype(np.float32))
        return replace(answers, maps=(target,))


def asked_by() -> tuple[str, str]:
    """What asks: the code from session to tile, and the runtime's version. Part of the keys of all answers."""
    import onnxruntime

    return hash_code(__name__), onnxruntime.__version__


def _file_name(tensor: str) -> str:
    """Tensor names hold slashes and worse."""
    ours = {OUTPUT: "output", SPREAD: "spread"}
    return ours.get(tensor) or "tap-" + hashlib.sha256(tensor.encode()).hexdigest()[:16]


def _new_array(path: Path, shape: tuple[int, ...]) -> Maps:
    """A mapped array whose room on the disk is taken: writing to a mapping that lacks it kills the process.

    Raises:
        UserError: there is no room.
    """
    array = open_memmap(path, mode="w+", dtype=np.float32, shape=shape)
    if hasattr(os, "posix_fallocate"):
        try:
            with path.open("r+b") as stream:
                os.posix_fallocate(stream.fileno(), 0, path.stat().st_size)
        except OSError as error:
            if error.errno not in (errno.EOPNOTSUPP, errno.EINVAL):  # file systems that know no such thing
                raise UserError(
                    f"no room in {path.parent} for the teacher's answers ({array.nbytes / 1e6:.0f} MB): "
                    f"{error.strerror}; make room, or give a --cache on another disk"
                ) from error
    return array


def _fill(
    session: ImageSession,
    views: Sequence[int],
    tiles: Sequence[Tile],
    targets: Mapping[str, Path],
    advance: Callable[[], None],
) -> None:
    """Write the answers to all tiles; arrays take their places when all are there."""
    arrays: dict[str, Maps] = {}
    with ExitStack() as stack:
        parts = {name: stack.enter_context(atomic_path(target)) for name, target in targets.items()}
        for around in {id(tile.around): tile.around for tile in tiles}.values():
            inside = [index for index, tile in enumerate(tiles) if tile.around is around]
            answer = _answer(session, around, views)
            for index in inside:
                found = _cut(answer, tiles[index], session)
                for name, part in parts.items():
                    if name not in arrays:
                        shape = (len(tiles), *found[name].shape)
                        arrays[name] = _new_array(part, shape)
                    arrays[name][index] = found[name]
                advance()
        for name, array in arrays.items():
            array.flush()  # type: ignore[attr-defined]
            seal(parts[name], targets[name])


def _answer(session: ImageSession, image: Image, views: Sequence[int]) -> dict[str, Maps]:
    """Output [H * scale, W * scale, C], averaged over the views, its spread, and each tap [F, h, w] of the first."""
    outputs: list[Image] = []
    taps: list[Maps] = []
    for view in views:
        turned = turn(image, view)
        output, *maps = session.run(image_to_tensor(turned, session.card))
        outputs.append(turn_back(tensor_to_image(output, session.card, *turned.shape[:2]), view))
        taps = taps or maps
    spread = np.std(outputs, axis=0).mean(axis=-1, keepdims=True)
    answer: dict[str, Maps] = {OUTPUT: np.mean(outputs, axis=0), SPREAD: spread}
    for name, values in zip(session.taps, taps, strict=True):
        if values.ndim != 4:
            raise UserError(f"tap {name!r} has shape {list(values.shape)}; recipes compare 4-D maps")
        answer[name] = values[0]
    return answer


def _cut(answer: dict[str, Maps], tile: Tile, session: ImageSession) -> dict[str, Maps]:
    """The answer's part for one tile: output [C, H * scale, W * scale], its spread and maps [F, H', W']."""
    card = session.card
    output, spread = (tile.cut(answer[name], card.scale).transpose(2, 0, 1) for name in (OUTPUT, SPREAD))
    if not np.isfinite(output).all():
        raise UserError(f"{tile.name!r}: the model gives NaN or infinity on this tile; leave that image out")
    size = model_size(card, *tile.around.shape[:2])
    maps = {name: tile.cut_map(answer[name], *size) for name in session.taps}
    for name, values in maps.items():
        if not np.isfinite(values).all():
            raise NothingToWorkWithError(f"tap {name!r} holds NaN or infinity on {tile.name!r}; name another --tap")
    return {OUTPUT: output, SPREAD: spread} | maps
