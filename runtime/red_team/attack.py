"""The red team: train students from the clean and from the hardened teacher and compare them."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

import onnxruntime

from kdguard.export.errors import UserError
from kdguard.export.image_pairs import ImagePair, hash_pairs, load_pairs, refuse_overlap
from kdguard.export.model_card import CardOverrides, ModelCard
from kdguard.export.onnx_files import load_onnx
from kdguard.export.tasks import get_task
from kdguard.runtime.engines.session import Engine
from kdguard.runtime.metrics import check_scorable
from kdguard.runtime.recipes import get_recipe
from kdguard.runtime.recipes.base import ENGINE_HIDES, Loot, NothingToWorkWithError, Recipe, Source
from kdguard.runtime.red_team.landmarks import kept_landmarks
from kdguard.runtime.red_team.loot import Thief, find_earlier_tap, resolve_tap
from kdguard.runtime.red_team.material import Material, TestSet, store_test_set, store_tiles
from kdguard.runtime.red_team.options import AttackOptions, all_if_asked
from kdguard.runtime.red_team.pieces import Scissors
from kdguard.runtime.red_team.remarks import remarks
from kdguard.runtime.red_team.scoreboard import NotRun, Scoreboard, Setting
from kdguard.runtime.red_team.summarise import make_scoreboard
from kdguard.runtime.red_team.sweep import tune_and_run
from kdguard.runtime.red_team.teacher_cache import TeacherCache
from kdguard.runtime.red_team.trial import Trial, TrialResult
from kdguard.runtime.resolve_card import resolve_common_card
from kdguard.runtime.shipped import Shipped, hash_shipped, layers_of, load_shipped
from kdguard.runtime.terminal import say
from kdguard.runtime.wording import counted

FEW_IMAGES = 3
"""Fewer that validate, or are scored on, are said to be few."""


@dataclass(frozen=True)
class AttackOutcome:
    """The scoreboard, and the trials behind it with curves and sample images."""

    scoreboard: Scoreboard
    trials: list[TrialResult]


def attack(
    hardened_path: Path,
    teacher_path: Path,
    data: Path,
    test_data: Path | None,
    options: AttackOptions,
    *,
    task: str | None = None,
    cache: Path | None = None,
    overrides: CardOverrides | None = None,
) -> AttackOutcome:
    """Run every recipe against both models.

    Args:
        data: the images the attacker owns; every fifth validates.
        test_data: pairs that nobody trains on; only they are scored. None keeps every fourth image
            of `data` from training and scores on those.
        cache: folder for teacher queries and finished trials; a temporary one by default.
        overrides: what the user says about the models, against their cards.

    Raises:
        UserError: unknown recipe, bad models or data, a tap that is not there.
    """
    names = all_if_asked(options.recipes)
    if "all" in names:
        raise UserError("--recipes all: give `all` alone, it stands for every recipe")
    recipes = [get_recipe(name) for name in names]
    if not recipes or len(set(names)) < len(names):
        raise UserError("give at least one recipe, each once; `kdguard attack --list-recipes` shows them")
    if options.seeds < 1:
        raise UserError(f"--seeds {options.seeds}: at least one seed is needed, three for an interval")
    teacher, hardened = load_onnx(teacher_path), load_shipped(hardened_path)
    # Looked for before any image is read; one that is named is checked where no recipe reads it, too: it was meant.
    reads = any(recipe.taps for recipe in recipes) and bool(layers_of(hardened))
    tap = resolve_tap(options.tap, teacher, hardened) if options.tap is not None or reads else None
    card = resolve_common_card(teacher, hardened, task, str(teacher_path), overrides, data)
    train, test = _load_images(data, test_data, card, options.seed)
    check_scorable(test, get_task(card.task), card.scale)
    scissors = Scissors(train, card, options.tiles, options.tile, options.seed)
    _say_what_there_is(scissors, options, len(test))

    with tempfile.TemporaryDirectory() as scratch:
        folder = cache or Path(scratch)
        queries = TeacherCache(folder / "queries")
        stored_test = store_test_set(test, queries.folder)
        models: dict[Source, Shipped] = {"clean": teacher, "hardened": hardened}
        # Hashed once: the weights of a large model are read for it.
        hashes: dict[Source, str] = {source: hash_shipped(model) for source, model in models.items()}
        identity = (*hashes.values(), stored_test.identity)
        landmarks = kept_landmarks((teacher, hardened), card, test, identity, queries.folder)
        preparation = _Preparation(recipes, models, hashes, card, scissors, queries, tap)
        templates = preparation.templates(options, card, stored_test)
        if not templates:
            raise UserError(f"no recipe could be run: {preparation.not_run[0].reason}")
        _say_what_is_ahead(templates, options)
        tuned = tune_and_run(templates, options.seeds, options.backend, folder / "trials")
        setting = Setting(
            kdguard=version("kdguard"),
            teacher=teacher_path.name,
            teacher_sha256=hashes["clean"],
            hardened=hardened_path.name,
            hardened_sha256=hashes["hardened"],
            hardened_layers=layers_of(hardened),
            task=card.task,
            torch=version("torch"),
            onnxruntime=onnxruntime.__version__,
            owned_sha256=hash_pairs(train),
            test_sha256=hash_pairs(test),
            owned_images=len(train),
            tiles=options.tiles,
            tile_side=scissors.side,
            seed=options.seed,
            training=options.training,
        )
        board = make_scoreboard(tuned, preparation.not_run, options, preparation.tap, len(test), setting, landmarks)
        board = board.model_copy(update={"notes": remarks(board)})
    return AttackOutcome(board, [result for group in tuned for result in group.chosen])


class _Preparation:
    """Cuts tiles and asks the models, recipe by recipe.

    Attributes:
        tap: that feature recipes read; None where none runs.
        not_run: recipes that these models give nothing to work with.
    """

    def __init__(
        self,
        recipes: Sequence[Recipe],
        models: dict[Source, Shipped],
        hashes: dict[Source, str],
        card: ModelCard,
        scissors: Scissors,
        queries: TeacherCache,
        tap: str | None,
    ) -> None:
        self._recipes, self._scissors, self._folder = recipes, scissors, queries.folder
        self.not_run: list[NotRun] = []
        own = scissors.own()
        self._own = own, store_tiles(own, self._folder)
        images = list({id(tile.around): tile.around for tile in own.train}.values())
        self.tap = tap
        self._no_tap = (
            ENGINE_HIDES
            if isinstance(models["hardened"], Engine)
            else "the hardened model has no hardened layer to tap; name one with --tap"
        )
        earlier = None
        if self.tap and any(recipe.taps > 1 for recipe in recipes):
            earlier = find_earlier_tap(self.tap, models["clean"], models["hardened"], card, own.train[0].degraded)
        self._thieves = {
            source: Thief(
                Loot(model, card, self.tap, earlier, images, own.train, own.validation), source, queries, hashes[source]
            )
            for source, model in models.items()
        }

    def templates(self, options: AttackOptions, card: ModelCard, test: TestSet) -> list[Trial]:
        """One trial per recipe and source; seed, learning rate and weight are filled in later."""
        trials = []
        for recipe in self._recipes:
            try:
                found = self._material(recipe)
            except NothingToWorkWithError as error:
                if len(self._recipes) == 1:
                    raise
                say(f"{recipe.name} is left out: {error}", "yellow")
                self.not_run.append(NotRun(recipe=recipe.name, tier=recipe.tier, reason=str(error)))
                continue
            trials += [
                Trial(
                    recipe=recipe.name,
                    source=source,
                    seed=0,
                    learning_rate=0.0,
                    weight=recipe.weights[0],
                    task=get_task(card.task).name,
                    scale=card.scale,
                    options=options.training,
                    material=material,
                    test=test,
                )
                for source, material in found.items()
            ]
        return trials

    def _material(self, recipe: Recipe) -> dict[Source, Material]:
        if recipe.taps and self.tap is None:
            raise NothingToWorkWithError(self._no_tap)
        pieces = recipe.pieces(self._scissors)
        own, stored = self._own
        # Most recipes cut nothing of their own, and the same tiles need not be hashed for each.
        tiles = stored if pieces is own else store_tiles(pieces, self._folder)
        return {
            source: Material(tiles, None, tiles.identity)
            if source == "none"
            else self._thieves[source].material_for(recipe, pieces, tiles)
            for source in recipe.sources
        }


def _say_what_there_is(scissors: Scissors, options: AttackOptions, test_images: int) -> None:
    own, validating = scissors.images
    validates = f"{counted(validating, 'image')} to validate on" if validating else "a part of it to validate on"
    tiles = f"{counted(options.tiles, 'tile')} of {scissors.side} px from {counted(own, 'image')} to train on"
    say(f"{tiles}, {validates}, {counted(test_images, 'test image')} to score on")
    if validating < FEW_IMAGES or test_images < FEW_IMAGES:
        say("few images: what is best on so few may not be so on others", "yellow")
    if scissors.side < options.training.patch:
        say(f"the images have no room for crops of {options.training.patch} px; {scissors.side} px it is", "yellow")


def _say_what_is_ahead(templates: Sequence[Trial], options: AttackOptions) -> None:
    rates = len(options.training.learning_rates)
    tried = [len(get_recipe(trial.recipe).weights) + rates - 1 + (rates > 1) for trial in templates]
    students = sum(tried) + len(templates) * (options.seeds - 1)
    say(f"about {counted(students, 'student')} of up to {counted(options.training.steps, 'step')} to train")


def _load_images(
    data: Path, test_data: Path | None, card: ModelCard, seed: int
) -> tuple[list[ImagePair], list[ImagePair]]:
    """Images to train on and images to score on, disjoint."""
    task = get_task(card.task)
    pairs = load_pairs(data, task, card.channels, card.scale, seed)
    seen: dict[bytes, str] = {}
    for pair in pairs:
        if (twin := seen.setdefault(pair.clean.tobytes(), pair.name)) != pair.name:
            raise UserError(f"{data}: {twin!r} and {pair.name!r} are the same image; leave one out")
    if test_data is not None:
        test = load_pairs(test_data, task, card.channels, card.scale, seed + 1)
        refuse_overlap(pairs, test, "training")
        return pairs, test
    if len(pairs) < 2:
        raise UserError(f"{data}: one image cannot be both trained and scored on; add images or give --test-data")
    test = pairs[3::4] or pairs[-1:]
    return [pair for pair in pairs if all(pair is not kept for kept in test)], test
