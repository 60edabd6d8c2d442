"""Teacher queries, asked once and kept: memory-mapped arrays keyed by model, data and taps."""

from __future__ import annotations

import hashlib
import shutil
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.lib.format import open_memmap

from kdguard.export.errors import UserError
from kdguard.export.files import remove
from kdguard.export.image_pairs import ImagePair, hash_pairs
from kdguard.export.image_tensor import image_to_tensor, tensor_to_image
from kdguard.runtime.session import RestorationSession
from kdguard.runtime.terminal import progress_bar


@dataclass(frozen=True)
class TeacherAnswers:
    """Paths of the cached arrays, so that worker processes map them instead of copying.

    Attributes:
        outputs: [M, C, H * scale, W * scale] float32, in [0, 1] up to over- and undershoot.
        features: [M, F, H_f, W_f] float32, or None where nothing was tapped.
    """

    outputs: Path
    features: Path | None


def query_teacher(
    session: RestorationSession,
    model_hash: str,
    tiles: Sequence[ImagePair],
    folder: Path,
    description: str,
) -> TeacherAnswers:
    """The session's outputs, and its first tap, on every tile; from `folder` where they are there.

    Args:
        session: taps at most one tensor.
        model_hash: of the model's content, weights included; with data, taps and card the cache key.
        tiles: equally sized images.
        folder: of the cache; one sub-folder per key appears in it whole or not at all.

    Raises:
        UserError: the cache cannot be written, the tap is no 4-D map, or the model fails.
    """
    parts = (model_hash, hash_pairs(list(tiles)), session.taps, session.card.model_dump_json(), session.provider)
    entry = folder / hashlib.sha256(repr(parts).encode()).hexdigest()[:32]
    answers = TeacherAnswers(entry / "outputs.npy", entry / "features.npy" if session.taps else None)
    if _is_whole(answers, len(tiles)):
        return answers
    try:
        remove(entry)
        folder.mkdir(parents=True, exist_ok=True)
        partial = Path(tempfile.mkdtemp(prefix=f".{entry.name}-", dir=folder))
    except OSError as error:
        raise UserError(f"cannot keep teacher queries in {folder}: {error.strerror}; choose another --cache") from error
    try:
        with progress_bar(description, len(tiles)) as advance:
            _ask(session, tiles, partial, advance)
        partial.rename(entry)
    except BaseException as error:
        shutil.rmtree(partial, ignore_errors=True)
        # Another process with the same cache may have been faster; its answers are the same.
        if isinstance(error, OSError) and _is_whole(answers, len(tiles)):
            return answers
        raise
    return answers


def _is_whole(answers: TeacherAnswers, count: int) -> bool:
    """Whether an entry is there and undamaged: a full disk or a careless copy may have cut it."""
    for path in filter(None, (answers.outputs, answers.features)):
        try:
            if len(np.load(path, mmap_mode="r")) != count:
                return False
        except (OSError, ValueError, EOFError):
            return False
    return True


def _ask(session: RestorationSession, tiles: Sequence[ImagePair], folder: Path, advance: Callable[[], None]) -> None:
    arrays: dict[str, np.ndarray] = {}
    for index, tile in enumerate(tiles):
        output, *taps = session.run(image_to_tensor(tile.degraded, session.card))
        answer = {"outputs": tensor_to_image(output, session.card, *tile.degraded.shape[:2]).transpose(2, 0, 1)}
        if not np.isfinite(output).all():
            raise UserError(f"{tile.name!r}: the model gives NaN or infinity on this tile; leave that image out")
        if taps:
            if taps[0].ndim != 4:
                raise UserError(f"tap {session.taps[0]!r} has shape {list(taps[0].shape)}; recipes compare 4-D maps")
            answer["features"] = taps[0][0]
        for name, values in answer.items():
            if name not in arrays:
                shape = (len(tiles), *values.shape)
                arrays[name] = open_memmap(folder / f"{name}.npy", mode="w+", dtype=np.float32, shape=shape)
            arrays[name][index] = values
        advance()
    for array in arrays.values():
        array.flush()  # type: ignore[attr-defined]
