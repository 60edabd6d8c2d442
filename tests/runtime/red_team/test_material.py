"""What is stored for worker processes comes back as it was."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np

from kdguard.export.image_pairs import ImagePair
from kdguard.runtime.red_team.material import store_test_set, store_tiles
from kdguard.runtime.red_team.pieces import Pieces
from kdguard.runtime.red_team.tile import Tile


def pair(name: str, height: int, width: int, seed: int = 0) -> ImagePair:
    rng = np.random.default_rng(seed)
    return ImagePair(name, *(rng.random((height, width, 3), dtype=np.float32) for _ in "ab"))


def tile(seed: int) -> Tile:
    image = pair(str(seed), 4, 4, seed)
    return Tile(image.name, image.degraded, image.clean, image.degraded)


def test_test_images_of_any_size(tmp_path: Path) -> None:
    pairs = [pair("a", 4, 5), pair("b", 6, 3, 1)]
    stored = store_test_set(pairs, tmp_path)
    assert stored.count == 2
    for given, found in zip(pairs, stored.load(), strict=True):
        np.testing.assert_array_equal(given.degraded, found.degraded)
        np.testing.assert_array_equal(given.clean, found.clean)


def test_the_sample_is_the_liveliest_image(tmp_path: Path) -> None:
    dull = ImagePair("dull", np.zeros((4, 4, 3), np.float32), np.full((4, 4, 3), 0.5, np.float32))
    assert store_test_set([dull, pair("live", 4, 4), dull], tmp_path).sample == 1


def test_tiles_are_training_then_validation(tmp_path: Path) -> None:
    tiles = [tile(seed) for seed in range(3)]
    stored = store_tiles(Pieces(tiles[:2], tiles[2:], made=1), tmp_path)
    assert (stored.train, stored.made) == (2, 1)
    degraded = np.load(stored.degraded)
    assert degraded.shape == (3, 3, 4, 4)
    np.testing.assert_array_equal(degraded[2].transpose(1, 2, 0), tiles[2].degraded)
    np.testing.assert_array_equal(np.load(stored.clean)[0].transpose(1, 2, 0), tiles[0].clean)


def test_other_tiles_or_another_split_have_another_identity(tmp_path: Path) -> None:
    tiles = [tile(seed) for seed in range(3)]
    splits = [Pieces(tiles[:2], tiles[2:]), Pieces(tiles[:1], tiles[1:]), Pieces(tiles[:2], tiles[2:], made=1)]
    assert len({store_tiles(pieces, tmp_path).identity for pieces in splits}) == 3


def test_the_identity_tells_what_lies_around_a_tile(tmp_path: Path) -> None:
    inner, image = tile(0), np.random.default_rng(1).random((12, 12, 3), dtype=np.float32)
    elsewhere = [inner, replace(inner, around=image), replace(inner, around=image, top=8)]
    assert len({store_tiles(Pieces([found], [found]), tmp_path).identity for found in elsewhere}) == 3


def cut(path: Path) -> None:
    """As a full disk or a careless copy leaves a file."""
    path.write_bytes(path.read_bytes()[:-40])


def test_damaged_tiles_are_written_again(tmp_path: Path) -> None:
    pieces = Pieces([tile(0)], [tile(1)])
    stored = store_tiles(pieces, tmp_path)
    whole = stored.degraded.read_bytes(), stored.clean.read_bytes()
    for path in (stored.degraded, stored.clean):
        cut(path)
    assert store_tiles(pieces, tmp_path) == stored
    assert (stored.degraded.read_bytes(), stored.clean.read_bytes()) == whole


def test_damaged_test_images_are_written_again(tmp_path: Path) -> None:
    pairs = [pair("a", 8, 8), pair("b", 8, 8, 1)]
    stored = store_test_set(pairs, tmp_path)
    whole = stored.path.read_bytes()
    # Cut short, one image's pixels changed, and empty.
    for damaged in (whole[:-40], whole[:400] + b"x" * 16 + whole[416:], b""):
        stored.path.write_bytes(damaged)
        np.testing.assert_array_equal(store_test_set(pairs, tmp_path).load()[0].degraded, pairs[0].degraded)


def test_what_is_whole_is_not_written_again(tmp_path: Path) -> None:
    pieces, pairs = Pieces([tile(0)], [tile(1)]), [pair("a", 8, 8)]
    paths = [store_tiles(pieces, tmp_path).degraded, store_test_set(pairs, tmp_path).path]
    before = [path.stat().st_ino for path in paths]
    store_tiles(pieces, tmp_path)
    store_test_set(pairs, tmp_path)
    assert [path.stat().st_ino for path in paths] == before
