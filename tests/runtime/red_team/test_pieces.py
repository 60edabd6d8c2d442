"""Tiles: sizes, alignment, and what validates is never trained on."""

from __future__ import annotations

import numpy as np
import pytest

from kdguard.export.errors import UserError
from kdguard.export.image_pairs import ImagePair
from kdguard.export.model_card import ModelCard
from kdguard.runtime.red_team.pieces import ZOOMED_WINDOWS, Pieces, Scissors


def card_of(scale: int = 1, size_multiple: int = 1, fixed_size: tuple[int, int] | None = None) -> ModelCard:
    return ModelCard(
        task="deraining",
        input_name="image",
        output_name="restored",
        scale=scale,
        size_multiple=size_multiple,
        fixed_size=fixed_size,
    )


def pairs_of(*sides: int, scale: int = 1) -> list[ImagePair]:
    """Images that share no pixel value at any place, so that a tile tells where it is from."""
    pairs = []
    for index, side in enumerate(sides):
        degraded = np.random.default_rng(index).random((side, side, 3), dtype=np.float32)
        clean = degraded.repeat(scale, 0).repeat(scale, 1)
        pairs.append(ImagePair(f"p{index}", degraded, clean))
    return pairs


def pixels(tiles: list[ImagePair]) -> set[bytes]:
    return {row.tobytes() for tile in tiles for row in tile.degraded.reshape(-1, 3)}


def names(tiles: list[ImagePair]) -> set[str]:
    return {tile.name.split("#")[0] for tile in tiles}


def all_pieces(scissors: Scissors) -> list[Pieces]:
    return [scissors.own(), scissors.of_one_image(), scissors.with_zoomed()]


def test_tiles_fit_the_size_multiple_and_small_images_are_left_out() -> None:
    own = Scissors(pairs_of(90, 75, 90, 20), card_of(size_multiple=32), 6, 96, seed=0).own()
    assert {tile.degraded.shape for tile in (*own.train, *own.validation)} == {(64, 64, 3)}
    assert names(own.train) | names(own.validation) == {"p0", "p1", "p2"}
    with pytest.raises(UserError, match="too small"):
        Scissors(pairs_of(90, 75), card_of(size_multiple=128), 6, 96, seed=0)


def test_a_fixed_size_decides_the_tiles() -> None:
    scissors = Scissors(pairs_of(90, 90), card_of(fixed_size=(40, 40)), 3, 96, seed=0)
    assert {tile.degraded.shape for tile in scissors.own().train} == {(40, 40, 3)}
    with pytest.raises(UserError, match="too small"):
        Scissors(pairs_of(90, 90), card_of(fixed_size=(128, 128)), 3, 96, seed=0)
    with pytest.raises(UserError, match="square tiles"):
        Scissors(pairs_of(90, 90), card_of(fixed_size=(40, 60)), 3, 96, seed=0)


@pytest.mark.parametrize("scale", [1, 2])
def test_tiles_line_up(scale: int) -> None:
    for pieces in all_pieces(Scissors(pairs_of(64, 64, scale=scale), card_of(scale), 5, 16, seed=0)):
        own = pieces.train[: len(pieces.train) - pieces.made]
        assert len({tile.degraded.tobytes() for tile in own}) == len(own)
        for tile in (*own, *pieces.validation):
            assert tile.degraded.shape == (16, 16, 3)
            np.testing.assert_array_equal(tile.clean[::scale, ::scale], tile.degraded)
        for tile in pieces.train[len(pieces.train) - pieces.made :]:
            assert tile.degraded.shape == (16, 16, 3)
            assert tile.clean.shape == (16 * scale, 16 * scale, 3)
            np.testing.assert_array_equal(tile.cut(tile.around), tile.degraded)


@pytest.mark.parametrize("sides", [(64,), (64, 70), (64,) * 11])
def test_what_validates_is_never_trained_on(sides: tuple[int, ...]) -> None:
    for pieces in all_pieces(Scissors(pairs_of(*sides), card_of(), 20, 24, seed=0)):
        own = pieces.train[: len(pieces.train) - pieces.made]
        assert len(own) == 20
        assert pieces.validation
        assert not pixels(own) & pixels(pieces.validation)


def test_one_query_is_one_image() -> None:
    one = Scissors(pairs_of(48, 64, 96), card_of(), 20, 24, seed=0).of_one_image()
    assert names(one.train) == names(one.validation) == {"p2"}


def test_one_image_too_small_to_be_split_is_refused() -> None:
    with pytest.raises(UserError, match="too small"):
        Scissors(pairs_of(24), card_of(), 4, 24, seed=0)


def test_zoomed_tiles_show_more_or_less_of_the_scene() -> None:
    """A ramp: over a zoomed-out tile it rises twice as far, over a zoomed-in one half as far."""
    ramp = np.linspace(0, 1, 128, dtype=np.float32)[None, :, None].repeat(128, 0).repeat(3, 2)
    zoomed = Scissors([ImagePair("r", ramp, ramp)] * 6, card_of(), 4, 32, seed=0).with_zoomed()
    assert zoomed.made == 8
    rises = [float(tile.degraded[16, 28, 0] - tile.degraded[16, 3, 0]) for tile in zoomed.train]
    plain = 25 / 127
    np.testing.assert_allclose(rises, [plain] * 4 + [plain / 2] * 4 + [plain * 2] * 4, rtol=0.05)


def test_a_teacher_sees_what_lies_around_zoomed_tiles() -> None:
    """Of all images that tiles are cut from; tiles of one share it."""
    pieces = Scissors(pairs_of(*[100] * 6), card_of(), 8, 32, seed=0).with_zoomed()
    nearer, further = pieces.train[8:16], pieces.train[16:]
    assert {tile.around.shape for tile in nearer} == {(200, 200, 3)}
    assert {tile.around.shape for tile in further} == {(50, 50, 3)}
    for tiles in (nearer, further):
        assert len({id(tile.around) for tile in tiles}) == 4
        assert len({(tile.top, tile.left) for tile in tiles}) > 1


def test_of_few_large_images_several_windows_are_zoomed() -> None:
    pieces = Scissors(pairs_of(400, 400), card_of(), 20, 32, seed=0).with_zoomed()
    assert len({id(tile.around) for tile in pieces.train[20:40]}) == ZOOMED_WINDOWS


def test_a_model_of_one_size_is_asked_about_zoomed_tiles_by_themselves() -> None:
    pieces = Scissors(pairs_of(90, 90), card_of(fixed_size=(40, 40)), 3, 96, seed=0).with_zoomed()
    assert {tile.around.shape for tile in pieces.train} == {(40, 40, 3)}


def test_the_same_seed_cuts_the_same_tiles() -> None:
    def cut(seed: int) -> list[bytes]:
        return [tile.degraded.tobytes() for tile in Scissors(pairs_of(64, 64), card_of(), 4, 24, seed).own().train]

    assert cut(0) == cut(0)
    assert cut(0) != cut(1)
