"""The harness on small budgets: repeatable, cached, and able to tell a copy from a perturbed model."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from kdguard.export.errors import UserError
from kdguard.export.model_card import ModelCard
from kdguard.export.onnx_files import load_onnx, save_onnx
from kdguard.graph_passes.op import SvdPerturbAttributes
from kdguard.runtime.harden import HardenOptions, harden
from kdguard.runtime.recipes import RECIPES
from kdguard.runtime.recipes.base import ENGINE_HIDES
from kdguard.runtime.red_team import landmarks, teacher_cache
from kdguard.runtime.red_team.attack import AttackOutcome, _load_images, attack
from kdguard.runtime.red_team.options import AttackOptions, TrainingOptions
from tests.runtime.engines.engine_files import onnxruntime_answers, write_engine

__all__ = ["onnxruntime_answers"]
FAST = TrainingOptions(steps=40, batch=4, patch=24, learning_rates=(5e-3,))


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
        for recipe, source in (
            ("scratch", "none"),
            ("output-l1", "clean"),
            ("output-l1", "hardened"),
            ("fitnets", "clean"),
            ("fitnets", "hardened"),
        )
        for seed in (0, 1)
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


@pytest.fixture
def no_questions(monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    def forbid() -> None:
        def refuse(*_: object) -> None:
            raise AssertionError("asked again")

        monkeypatch.setattr(teacher_cache, "_fill", refuse)
        monkeypatch.setattr(landmarks, "measure_landmarks", refuse)

    return forbid


def test_teacher_is_asked_once(run: Callable[..., AttackOutcome], no_questions: Callable[[], None]) -> None:
    first = run(seeds=1).scoreboard
    no_questions()
    assert run(seeds=1).scoreboard == first
    # A further recipe that reads the same tensors costs no teacher time.
    run(seeds=1, recipes=("attention-transfer", "output+gt"))
    for other in ({"tap": "b"}, {"tiles": 9}, {"seed": 5}):
        with pytest.raises(AssertionError, match="asked again"):
            run(seeds=1, recipes=("fitnets",), **other)


def test_a_model_with_other_weights_is_asked_again(
    run: Callable[..., AttackOutcome], hardened_file: Path, no_questions: Callable[[], None]
) -> None:
    run(seeds=1)
    model = load_onnx(hardened_file)
    weight = model.graph.initializer[0]
    weight.raw_data = bytes(len(weight.raw_data))
    save_onnx(model, hardened_file)
    no_questions()
    with pytest.raises(AssertionError, match="asked again"):
        run(seeds=1)


def test_a_damaged_cache_entry_is_replaced(run: Callable[..., AttackOutcome], tmp_path: Path) -> None:
    first = run(seeds=1).scoreboard
    damaged = [*(tmp_path / "cache" / "queries").glob("*-output.npy"), *(tmp_path / "cache" / "trials").iterdir()]
    assert len(damaged) == 2 + 5
    for path in damaged:
        path.write_bytes(path.read_bytes()[:50])
    assert run(seeds=1).scoreboard == first


def test_an_unwritable_cache_is_one_line(
    conv_net_file: Path, hardened_file: Path, pairs_folder: Path, tmp_path: Path
) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="choose another --cache"):
        attack(hardened_file, conv_net_file, pairs_folder, None, options(), cache=tmp_path / "file")


def test_diverged_students_are_no_evidence(run: Callable[..., AttackOutcome]) -> None:
    wild = FAST.model_copy(update={"learning_rates": (1e25,), "steps": 5, "early_stopping": False})
    board = run(seeds=2, training=wild).scoreboard
    assert all(row.diverged for row in board.rows)
    assert [entry.clean.diverged for entry in board.summary] == [2, 2, 2]
    assert board.best_response is None


def test_an_interrupted_query_leaves_no_entry(
    run: Callable[..., AttackOutcome], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(teacher_cache, "_answer", interrupt)
    with pytest.raises(KeyboardInterrupt):
        run()
    assert not list((tmp_path / "cache" / "queries").glob("*-output.npy"))
    assert not list((tmp_path / "cache" / "queries").glob(".*"))


def test_seeds_give_different_students(run: Callable[..., AttackOutcome]) -> None:
    rows = run(recipes=("scratch",), seeds=2).scoreboard.rows
    assert rows[0].psnr != rows[1].psnr


def test_seeds_start_from_different_weights(run: Callable[..., AttackOutcome]) -> None:
    """With next to no training only the first weights can tell two students apart."""
    still = FAST.model_copy(update={"learning_rates": (1e-12,), "steps": 1})
    rows = run(recipes=("scratch",), seeds=2, training=still).scoreboard.rows
    assert abs(rows[0].psnr - rows[1].psnr) > 1e-3


def test_default_tap_is_the_last_hardened_layer(run: Callable[..., AttackOutcome], conv_net_file: Path) -> None:
    assert run(recipes=("fitnets",), seeds=1, tap=None).scoreboard.tap == "d"
    with pytest.raises(UserError, match="no hardened layer to tap"):
        run(conv_net_file, tap=None, recipes=("fitnets",))
    board = run(conv_net_file, tap=None).scoreboard
    assert (board.tap, [missing.recipe for missing in board.not_run]) == (None, ["fitnets"])


def test_bad_requests(run: Callable[..., AttackOutcome], pairs_folder: Path) -> None:
    with pytest.raises(UserError, match="did you mean 'output-l1'"):
        run(recipes=("output-l2",))
    for recipe in ("fitnets", "scratch"):
        with pytest.raises(UserError, match="tap 'zzz'"):
            run(tap="zzz", recipes=(recipe,))
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


def test_one_image_under_two_names_is_told(pairs_folder: Path, card: ModelCard, tmp_path: Path) -> None:
    """Else a score on the one would measure the memory of the other."""
    for folder in ("clean", "degraded"):
        (pairs_folder / folder / "p9.png").write_bytes((pairs_folder / folder / "p0.png").read_bytes())
    elsewhere = tmp_path / "elsewhere"
    for folder in ("clean", "degraded"):
        (elsewhere / folder).mkdir(parents=True)
        shutil.move(pairs_folder / folder / "p3.png", elsewhere / folder)
    # One of the two might validate what the other trained, too.
    for test_data in (None, elsewhere):
        with pytest.raises(UserError, match=r"'p0.png' and 'p9.png' are the same image"):
            _load_images(pairs_folder, test_data, card, seed=0)


def test_images_that_score_are_degraded_by_another_seed(pairs_folder: Path, card: ModelCard, tmp_path: Path) -> None:
    """Noise that students were trained on would be known to them."""
    kinds = {}
    for kind, names in {"train": ("p0.png", "p1.png"), "test": ("p2.png", "p3.png")}.items():
        kinds[kind] = tmp_path / kind
        (kinds[kind] / "clean").mkdir(parents=True)
        for name in names:
            (kinds[kind] / "clean" / name).write_bytes((pairs_folder / "clean" / name).read_bytes())
    noisy = card.model_copy(update={"task": "denoising"})
    (_, test), (as_training, _) = (
        _load_images(kinds["train"], kinds["test"], noisy, seed=0),
        _load_images(kinds["test"], kinds["train"], noisy, seed=0),
    )
    assert [pair.name for pair in test] == [pair.name for pair in as_training]
    assert not (test[0].degraded == as_training[0].degraded).all()


def test_images_kept_for_the_score_are_not_trained_on(pairs_folder: Path, card: ModelCard) -> None:
    train, test = _load_images(pairs_folder, None, card, seed=0)
    assert [pair.name for pair in train] == ["p0.png", "p1.png", "p2.png"]
    assert [pair.name for pair in test] == ["p3.png"]


def test_every_recipe_runs_on_a_hardened_model(run: Callable[..., AttackOutcome]) -> None:
    few = FAST.model_copy(update={"steps": 4})
    board = run(recipes=tuple(RECIPES), seeds=1, training=few).scoreboard
    # The key image is for files that were made for it.
    keyed = {"keyed-answers", "keyed-answers-0.5"}
    assert {entry.recipe for entry in board.not_run} == keyed
    assert {entry.recipe for entry in board.summary} == set(RECIPES) - keyed
    assert all((entry.bound_db is not None) == (entry.tier == "T0") for entry in board.summary)


def test_what_goes_around_the_nodes_is_not_misled(run: Callable[..., AttackOutcome]) -> None:
    """Paired nodes: before them, without them and with an identity in their place the map is the clean one."""
    recipes = ("fitnets", "pre-tap", "strip", "strip+refit", "plugin-substitution")
    drops = {entry.recipe: entry.drop_db for entry in run(recipes=recipes, seeds=1).scoreboard.summary}
    assert drops.pop("fitnets") > 1.0
    assert max(map(abs, drops.values())) < 0.05


def test_a_recipe_that_cannot_run_is_named_and_the_others_go_on(
    run: Callable[..., AttackOutcome], conv_net_file: Path
) -> None:
    """`a` is the first map of the network: nothing comes before it."""
    board = run(recipes=("output-l1", "fsp"), seeds=1, tap="a").scoreboard
    assert [entry.recipe for entry in board.summary] == ["output-l1"]
    assert [(missing.recipe, missing.tier) for missing in board.not_run] == [("fsp", "T1")]
    with pytest.raises(UserError, match="compares two layers"):
        run(recipes=("fsp",), seeds=1, tap="a")


def test_settings_are_chosen_by_validation_and_only_seed_0_tries_them(run: Callable[..., AttackOutcome]) -> None:
    rates = FAST.model_copy(update={"learning_rates": (5e-3, 1e-6)})
    board = run(recipes=("scratch", "fitnets-tuned"), seeds=2, training=rates).scoreboard
    for recipe, source in (("scratch", "none"), ("fitnets-tuned", "clean"), ("fitnets-tuned", "hardened")):
        rows = [row for row in board.rows if (row.recipe, row.source) == (recipe, source)]
        tried = [row for row in board.tried if (row.recipe, row.source) == (recipe, source)]
        assert [row.seed for row in rows] == [0, 1]
        assert {row.seed for row in tried} == {0}
        best = max(tried, key=lambda row: row.validation_db or 0)
        assert {(row.learning_rate, row.weight) for row in rows} == {(best.learning_rate, best.weight)}
        assert {row.learning_rate for row in tried} > {1e-6, 5e-3}
        assert best.learning_rate >= 5e-3
    # Features that mislead are given no weight.
    assert {row.weight for row in board.rows if row.source == "hardened"} == {0.0}


@pytest.mark.usefixtures("onnxruntime_answers")
def test_who_has_an_engine_sees_outputs_only(
    run: Callable[..., AttackOutcome], hardened_file: Path, card: ModelCard, tmp_path: Path
) -> None:
    engine = write_engine(load_onnx(hardened_file), card, tmp_path / "shipped.engine")
    recipes = ("output-l1", "fitnets", "strip", "dihedral-average")
    board = run(model=engine, recipes=recipes, seeds=1, tap=None).scoreboard
    assert {row.recipe for row in board.rows} == {"output-l1", "dihedral-average"}
    assert {entry.recipe: entry.reason for entry in board.not_run} == dict.fromkeys(("fitnets", "strip"), ENGINE_HIDES)
    assert board.setting.hardened_layers == ["d"]
    with pytest.raises(UserError, match=f"--tap d: {ENGINE_HIDES}"):
        run(model=engine, recipes=recipes)
