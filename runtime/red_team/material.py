"""What a student is trained on, as files: worker processes map them instead of copying."""

from __future__ import annotations

import hashlib
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from kdguard.export.files import atomic_path
from kdguard.export.image_pairs import ImagePair, hash_pairs
from kdguard.runtime.red_team.pieces import Pieces
from kdguard.runtime.red_team.stored_array import is_whole, store_array
from kdguard.runtime.red_team.teacher_cache import Answers
from kdguard.runtime.red_team.tile import hash_tiles


@dataclass(frozen=True)
class Tiles:
    """Stored tiles: training ones first, then those that validate.

    Attributes:
        degraded: path of [M, C, H, W] float32.
        clean: path of [M, C, H * scale, W * scale] float32.
        train: how many train.
        made: how many of the last training tiles have no ground truth.
        identity: hash of their names and pixels, and of the images they lie in.
    """

    degraded: Path
    clean: Path
    train: int
    made: int
    identity: str


@dataclass(frozen=True)
class Material:
    """Tiles, and a teacher's answers to them.

    Attributes:
        answers: None for recipes that ask nothing.
        identity: hash of all that the answers depend on.
    """

    tiles: Tiles
    answers: Answers | None
    identity: str


@dataclass(frozen=True)
class TestSet:
    """Stored test pairs.

    Attributes:
        path: .npz with `degraded0`, `clean0`, ... [H, W, C].
        count: of pairs.
        sample: index of the one whose restoration is returned for the report.
    """

    __test__ = False  # pytest takes the name for a test class

    path: Path
    count: int
    sample: int
    identity: str

    def load(self) -> list[ImagePair]:
        """The pairs."""
        with np.load(self.path) as arrays:
            return [
                ImagePair(str(index), arrays[f"degraded{index}"], arrays[f"clean{index}"])
                for index in range(self.count)
            ]


def store_tiles(pieces: Pieces, folder: Path) -> Tiles:
    """Write the tiles where they are not there yet."""
    pairs = [*pieces.train, *pieces.validation]
    identity = hashlib.sha256(f"{hash_tiles(pairs)}{len(pieces.train)}{pieces.made}".encode()).hexdigest()[:32]
    paths = []
    for kind in ("degraded", "clean"):
        path = folder / f"{identity}-{kind}.npy"
        if not is_whole(path, len(pairs)):
            store_array(path, np.stack([getattr(pair, kind).transpose(2, 0, 1) for pair in pairs]))
        paths.append(path)
    return Tiles(paths[0], paths[1], len(pieces.train), pieces.made, identity)


def store_test_set(pairs: Sequence[ImagePair], folder: Path) -> TestSet:
    """Write the test pairs where they are not there yet."""
    identity = hash_pairs(list(pairs))[:32]
    path = folder / f"{identity}-test.npz"
    stored = TestSet(path, len(pairs), _liveliest(pairs), identity)
    if not _is_readable(stored):
        arrays = {f"{kind}{i}": getattr(pair, kind) for i, pair in enumerate(pairs) for kind in ("degraded", "clean")}
        with atomic_path(path) as part, part.open("wb") as stream:
            np.savez(stream, **arrays)
    return stored


def _is_readable(stored: TestSet) -> bool:
    """Whether the file is there, and its checksums hold."""
    try:
        stored.load()
    except (OSError, ValueError, EOFError, KeyError, TypeError, zipfile.BadZipFile):
        return False
    return True


def _liveliest(pairs: Sequence[ImagePair]) -> int:
    """Index of the image with the most contrast and colour, the one worth showing."""
    return int(np.argmax([pair.clean.std() + 2 * pair.clean.std(axis=-1).mean() for pair in pairs]))
