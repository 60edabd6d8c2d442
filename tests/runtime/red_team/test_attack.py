"""The harness on small budgets: repeatable, cached, and able to tell a copy from a perturbed model."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from kdguard.export.errors import UserError
from kdguard.export.image_pairs import ImagePair
from kdguard.export.model_card import ModelCard
from kdguard.export.onnx_files import load_onnx, save_onnx
from kdguard.graph_passes.op import SvdPerturbAttributes
from kdguard.runtime import teacher_cache
from kdguard.runtime.attack import AttackOptions, AttackOutcome, _load_images, attack, cut_tiles
from kdguard.runtime.harden import HardenOptions, harden
from kdguard.runtime.trial import TrainingOptions
from tests.conftest import photograph

FAST = TrainingOptions(width=8, blocks=1, steps=40, batch=4, patch=24, learning_rate=5e-3)


def options(**changes: object) -> AttackOptions:
    settings: dict[str, object] = {"seeds": 2, "tiles": 8, "tile": 32, "tap": "d", "training": FAST}
    return AttackOptions(**(settings | changes))  # type: ignore[arg-type]


@pytest.fixture
def hardened_file(conv_net_file: Path, tmp_path: Path) -> Path:
    harden(
        conv_net_file,
        tmp_path / "hardened.onnx",
        HardenOptions(["d"], attributes=SvdPerturbAttributes(rank=4, gain=100.0)),
    )
    return tmp_path / "hardened.onnx"


@pytest.fixture
def run(conv_net_file: Path, hardened_file: Path, pairs_folder: Path, tmp_path: Path) -> Callable[..., AttackOutcome]:
    def start(model: Path = hardened_file, **changes: object) -> AttackOutcome:
        return attack(model, conv_net_file, pairs_folder, None, options(**changes), cache=tmp_path / "cache")

    return start


def test_rows_and_repeatability(run: Callable[..., AttackOutcome]) -> None:
    board = run().scoreboard
    assert [(r.recipe, r.source, r.seed) for r in board.rows] == [
        (recipe, source, seed)
        for seed in (0, 1)
        for recipe, source in (
            ("scratch", "none"),
            ("output-l1", "clean"),
            ("output-l1", "hardened"),
            ("fitnets", "clean"),
            ("fitnets", "hardened"),
        )
    ]
    assert board.tap == "d"
    assert run().scoreboard == board


def test_misleading_features_hurt_and_equal_outputs_do_not(run: Callable[..., AttackOutcome]) -> None:
    summary = {entry.recipe: entry for entry in run().scoreboard.summary}
    assert summary["fitnets"].drop_db > 1.0
    assert abs(summary["output-l1"].drop_db) < 0.2


def test_a_copy_of_the_teacher_shows_no_drop(run: Callable[..., AttackOutcome], conv_net_file: Path) -> None:
    """A planted hardened model that is the clean one: every difference would be the harness's own."""
    summary = run(conv_net_file).scoreboard.summary
    assert [entry.drop_db for entry in summary] == [0.0, 0.0, 0.0]


def test_teacher_is_asked_once(run: Callable[..., AttackOutcome], monkeypatch: pytest.MonkeyPatch) -> None:
    first = run(seeds=1).scoreboard

    def refuse(*_: object) -> None:
        raise AssertionError("asked again")

    monkeypatch.setattr(teacher_cache, "_ask", refuse)
    assert run(seeds=1).scoreboard == first
    for other in ({"tap": "b"}, {"tiles": 9}, {"seed": 5}):
        with pytest.raises(AssertionError, match="asked again"):
            run(seeds=1, **other)


def test_a_model_with_other_weights_is_asked_again(
    run: Callable[..., AttackOutcome], hardened_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run(seeds=1)
    model = load_onnx(hardened_file)
    weight = model.graph.initializer[0]
    weight.raw_data = bytes(len(weight.raw_data))
    save_onnx(model, hardened_file)

    def refuse(*_: object) -> None:
        raise AssertionError("asked again")

    monkeypatch.setattr(teacher_cache, "_ask", refuse)
    with pytest.raises(AssertionError, match="asked again"):
        run(seeds=1)


def test_a_damaged_cache_entry_is_replaced(run: Callable[..., AttackOutcome], tmp_path: Path) -> None:
    first = run(seeds=1).scoreboard
    for path in (tmp_path / "cache").rglob("outputs.npy"):
        path.write_bytes(path.read_bytes()[:50])
    assert run(seeds=1).scoreboard == first


def test_an_unwritable_cache_is_one_line(
    conv_net_file: Path, hardened_file: Path, pairs_folder: Path, tmp_path: Path
) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="choose another --cache"):
        attack(hardened_file, conv_net_file, pairs_folder, None, options(), cache=tmp_path / "file")


def test_diverged_students_are_no_evidence(run: Callable[..., AttackOutcome]) -> None:
    wild = FAST.model_copy(update={"learning_rate": 1e12, "steps": 5})
    board = run(seeds=2, training=wild).scoreboard
    assert all(row.diverged for row in board.rows)
    assert [entry.clean.diverged for entry in board.summary] == [2, 2, 2]
    assert board.best_response is None


def test_an_interrupted_query_leaves_no_entry(
    run: Callable[..., AttackOutcome], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(_session: object, _tiles: object, folder: Path, _advance: object) -> None:
        (folder / "outputs.npy").write_bytes(b"half")
        raise KeyboardInterrupt

    monkeypatch.setattr(teacher_cache, "_ask", interrupt)
    with pytest.raises(KeyboardInterrupt):
        run()
    assert list((tmp_path / "cache").iterdir()) == []


def test_seeds_give_different_students(run: Callable[..., AttackOutcome]) -> None:
    rows = run(recipes=("scratch",), seeds=2).scoreboard.rows
    assert rows[0].psnr != rows[1].psnr


def test_seeds_start_from_different_weights(run: Callable[..., AttackOutcome]) -> None:
    """With next to no training only the first weights can tell two students apart."""
    still = FAST.model_copy(update={"learning_rate": 1e-12, "steps": 1})
    rows = run(recipes=("scratch",), seeds=2, training=still).scoreboard.rows
    assert abs(rows[0].psnr - rows[1].psnr) > 1e-3


def test_default_tap_is_the_last_hardened_layer(run: Callable[..., AttackOutcome], conv_net_file: Path) -> None:
    assert run(recipes=("fitnets",), seeds=1, tap=None).scoreboard.tap == "d"
    with pytest.raises(UserError, match="no hardened layer to tap"):
        run(conv_net_file, tap=None)


def test_bad_requests(run: Callable[..., AttackOutcome], pairs_folder: Path) -> None:
    with pytest.raises(UserError, match="did you mean 'output-l1'"):
        run(recipes=("output-l2",))
    with pytest.raises(UserError, match="tap 'zzz'"):
        run(tap="zzz")
    with pytest.raises(UserError, match="at least one seed"):
        run(seeds=0)
    for recipes in ((), ("scratch", "scratch")):
        with pytest.raises(UserError, match="each once"):
            run(recipes=recipes)
    for folder in ("clean", "degraded"):
        for path in sorted((pairs_folder / folder).iterdir())[1:]:
            path.unlink()
    with pytest.raises(UserError, match="one image cannot be both"):
        run()


def test_training_images_are_not_scored(conv_net_file: Path, hardened_file: Path, pairs_folder: Path) -> None:
    with pytest.raises(UserError, match="also a training image"):
        attack(hardened_file, conv_net_file, pairs_folder, pairs_folder, options())


def card_of(scale: int = 1, size_multiple: int = 1) -> ModelCard:
    return ModelCard(
        task="deraining", input_name="image", output_name="restored", scale=scale, size_multiple=size_multiple
    )


def test_tiles_fit_the_size_multiple_and_small_images_are_left_out() -> None:
    pairs = []
    for name, side in (("large", 90), ("medium", 75), ("small", 20)):
        image = photograph(side).astype(np.float32) / 255
        pairs.append(ImagePair(name, image, image))
    tiles = cut_tiles(pairs, 6, 96, card_of(size_multiple=32), seed=0)
    assert {tile.degraded.shape for tile in tiles} == {(64, 64, 3)}
    assert {tile.name.split("#")[0] for tile in tiles} == {"large", "medium"}
    with pytest.raises(UserError, match="too small"):
        cut_tiles(pairs, 6, 96, card_of(size_multiple=128), seed=0)


def test_a_fixed_size_decides_the_tiles() -> None:
    image = photograph(90).astype(np.float32) / 255
    pairs = [ImagePair("p", image, image)]
    tiles = cut_tiles(pairs, 3, 96, card_of().model_copy(update={"fixed_size": (40, 40)}), seed=0)
    assert {tile.degraded.shape for tile in tiles} == {(40, 40, 3)}
    with pytest.raises(UserError, match="too small"):
        cut_tiles(pairs, 3, 96, card_of().model_copy(update={"fixed_size": (128, 128)}), seed=0)
    with pytest.raises(UserError, match="square tiles"):
        cut_tiles(pairs, 3, 96, card_of().model_copy(update={"fixed_size": (40, 60)}), seed=0)


def test_images_kept_for_the_score_are_not_trained_on(pairs_folder: Path, card: ModelCard) -> None:
    train, test = _load_images(pairs_folder, None, card, seed=0)
    assert [pair.name for pair in train] == ["p0.png", "p1.png", "p2.png"]
    assert [pair.name for pair in test] == ["p3.png"]


@pytest.mark.parametrize("scale", [1, 2])
def test_tiles_line_up(scale: int) -> None:
    clean = photograph(64).astype(np.float32) / 255
    pair = ImagePair("p", clean[::scale, ::scale], clean)
    tiles = cut_tiles([pair], 5, 16, card_of(scale), seed=0)
    assert len({tile.degraded.tobytes() for tile in tiles}) > 1
    for tile in tiles:
        assert tile.degraded.shape == (16, 16, 3)
        np.testing.assert_array_equal(tile.clean[::scale, ::scale], tile.degraded)
