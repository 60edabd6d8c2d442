"""The red team: train students from the clean and from the hardened teacher and compare them."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import joblib
import numpy as np
import onnx
from joblib.externals.loky import get_reusable_executor

from kdguard.export.errors import UserError
from kdguard.export.image_pairs import ImagePair, load_pairs, refuse_overlap
from kdguard.export.model_card import CardOverrides, ModelCard
from kdguard.export.onnx_files import hash_model, load_onnx
from kdguard.export.tasks import get_task
from kdguard.graph_passes.inventory import hardened_layers
from kdguard.runtime.metrics import check_scorable
from kdguard.runtime.open_model import resolve_common_card
from kdguard.runtime.recipes import get_recipe
from kdguard.runtime.scoreboard import Row, Scoreboard, summarise
from kdguard.runtime.session import RestorationSession
from kdguard.runtime.teacher_cache import TeacherAnswers, query_teacher
from kdguard.runtime.terminal import progress_bar, say
from kdguard.runtime.trial import Source, TrainingOptions, Trial, TrialResult, run_trial
from kdguard.runtime.wording import counted

MIN_TILE = 16
"""Smaller pieces are all border."""

DEFAULT_RECIPES = ("scratch", "output-l1", "fitnets")


@dataclass(frozen=True)
class AttackOptions:
    """What to try.

    Attributes:
        recipes: names from `recipes.RECIPES`.
        seeds: students per recipe and source.
        tap: tensor the feature recipes read, in both models; the last hardened layer by default.
        tiles: images the attacker owns, cut from his data at random.
        tile: their side in pixels of the degraded image.
        seed: of the cutting.
    """

    recipes: Sequence[str] = DEFAULT_RECIPES
    seeds: int = 3
    tap: str | None = None
    tiles: int = 64
    tile: int = 96
    seed: int = 0
    training: TrainingOptions = field(default_factory=TrainingOptions)


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
        data: the images the attacker owns.
        test_data: pairs that nobody trains on; only they are scored. None keeps every fourth image
            of `data` from training and scores on those.
        cache: folder for teacher queries; a temporary one by default.
        overrides: what the user says about the models, against their cards.

    Raises:
        UserError: unknown recipe, bad models or data, a tap that is not there.
    """
    recipes = [get_recipe(name) for name in options.recipes]
    if not recipes or len(set(options.recipes)) < len(recipes):
        raise UserError("give at least one recipe, each once; `kdguard attack --list-recipes` shows them")
    if options.seeds < 1:
        raise UserError(f"--seeds {options.seeds}: at least one seed is needed, three for an interval")
    teacher, hardened = load_onnx(teacher_path), load_onnx(hardened_path)
    card = resolve_common_card(teacher, hardened, task, str(teacher_path), overrides, data)
    tap = _resolve_tap(options, teacher, hardened) if any(r.taps for r in recipes) else None
    train, test = _load_images(data, test_data, card, options.seed)
    check_scorable(test, get_task(card.task), card.scale)
    tiles = cut_tiles(train, options.tiles, options.tile, card, options.seed)
    side = tiles[0].degraded.shape[0]
    say(f"{counted(len(tiles), 'tile')} of {side} px to train on, {counted(len(test), 'test image')} to score on")

    with tempfile.TemporaryDirectory() as scratch:
        tile_paths = _store_tiles(tiles, Path(scratch))
        answers: dict[Source, TeacherAnswers] = {}
        if any(recipe.queries for recipe in recipes):
            models: dict[Source, onnx.ModelProto] = {"clean": teacher, "hardened": hardened}
            for source, model in models.items():
                session = RestorationSession(model, card, taps=(tap,) if tap else ())
                answers[source] = query_teacher(
                    session, hash_model(model), tiles, cache or Path(scratch), f"asking the {source} teacher"
                )
                session.release()
        jobs, threads = _share_cores(len(recipes) * options.seeds)
        trials = [
            Trial(
                recipe=recipe.name,
                source=source,
                seed=seed,
                task=get_task(card.task).name,
                scale=card.scale,
                options=options.training,
                tiles=tile_paths,
                answers=answers.get(source),
                test=tuple(test),
                threads=threads,
                sample=_liveliest(test),
            )
            for seed in range(options.seeds)
            for recipe in recipes
            for source in _sources(recipe.queries)
        ]
        results = _run(trials, jobs)
    return AttackOutcome(_scoreboard(results, options, tap, len(test)), results)


def _liveliest(test: Sequence[ImagePair]) -> int:
    """Index of the test image with the most contrast and colour, the one worth showing."""
    return int(np.argmax([pair.clean.std() + 2 * pair.clean.std(axis=-1).mean() for pair in test]))


def _sources(queries: bool) -> tuple[Source, ...]:
    return ("clean", "hardened") if queries else ("none",)


def _resolve_tap(options: AttackOptions, teacher: onnx.ModelProto, hardened: onnx.ModelProto) -> str:
    """The tensor to read, present in both models: an attacker cannot tap what is not there."""
    layers = hardened_layers(hardened)
    if not options.tap and not layers:
        raise UserError("the hardened model has no hardened layer to tap; name one with --tap")
    # A compensated layer moves little; what misleads an attacker is a paired one, where there is one.
    misleading = [layer for layer in layers if layer.placement == "paired"] or layers
    tap = options.tap or misleading[-1].layer
    for model, name in ((teacher, "teacher"), (hardened, "hardened model")):
        if not any(tap in node.output for node in model.graph.node):
            raise UserError(f"tap {tap!r} is not a tensor of the {name}'s graph; see `kdguard inspect MODEL`")
    return tap


def _load_images(
    data: Path, test_data: Path | None, card: ModelCard, seed: int
) -> tuple[list[ImagePair], list[ImagePair]]:
    """Images to train on and images to score on, disjoint."""
    task = get_task(card.task)
    pairs = load_pairs(data, task, card.channels, card.scale, seed)
    if test_data is not None:
        test = load_pairs(test_data, task, card.channels, card.scale, seed + 1)
        refuse_overlap(pairs, test, "training")
        return pairs, test
    if len(pairs) < 2:
        raise UserError(f"{data}: one image cannot be both trained and scored on; add images or give --test-data")
    test = pairs[3::4] or pairs[-1:]
    train = [pair for pair in pairs if all(pair is not kept for kept in test)]
    refuse_overlap(train, test, "training")
    return train, test


def cut_tiles(pairs: list[ImagePair], count: int, side: int, card: ModelCard, seed: int) -> list[ImagePair]:
    """Cut `count` square tiles at seeded random places.

    The side shrinks to that of the median image, and to a multiple of what the model takes: a padded
    tile's feature map would not line up with it. Smaller images give no tiles. A model of one fixed
    size decides it.

    Raises:
        UserError: the images are smaller than the model's size multiple, or its fixed size is not square.
    """
    if card.fixed_size:
        side, other = card.fixed_size
        if side != other:
            raise UserError(f"the model takes images of {other}x{side} only, and students are trained on square tiles")
        card = card.model_copy(update={"size_multiple": side})
    sides = [min(pair.degraded.shape[:2]) for pair in pairs]
    side = min(max(side, card.size_multiple), int(np.median(sides)))
    side -= side % card.size_multiple
    if side < max(card.size_multiple, MIN_TILE):
        raise UserError(
            f"the images to train on are too small: tiles of {max(card.size_multiple, MIN_TILE)} pixels are needed, "
            f"the median image has {int(np.median(sides))}"
        )
    usable = [pair for pair, shorter in zip(pairs, sides, strict=True) if shorter >= side]
    scale, rng = card.scale, np.random.default_rng([seed, 2])
    tiles = []
    for index in range(count):
        pair = usable[index % len(usable)]
        top, left = (int(rng.integers(s - side + 1)) for s in pair.degraded.shape[:2])
        low = (slice(top, top + side), slice(left, left + side))
        high = (slice(top * scale, (top + side) * scale), slice(left * scale, (left + side) * scale))
        tiles.append(ImagePair(f"{pair.name}#{index}", pair.degraded[low], pair.clean[high]))
    return tiles


def _store_tiles(tiles: list[ImagePair], folder: Path) -> tuple[str, str]:
    paths = []
    for kind in ("degraded", "clean"):
        path = folder / f"{kind}.npy"
        np.save(path, np.stack([getattr(tile, kind).transpose(2, 0, 1) for tile in tiles]))
        paths.append(str(path))
    return paths[0], paths[1]


def _share_cores(trials: int) -> tuple[int, int]:
    """Worker processes and threads in each; two torch processes that share cores crawl."""
    import torch

    if torch.cuda.is_available():
        return 1, joblib.cpu_count()
    jobs = min(joblib.cpu_count(), trials)
    return jobs, max(1, joblib.cpu_count() // jobs)


def _run(trials: list[Trial], jobs: int) -> list[TrialResult]:
    results: list[TrialResult] = []
    with progress_bar("training students", len(trials)) as advance:
        parallel = joblib.Parallel(n_jobs=jobs, return_as="generator_unordered", batch_size=1)
        try:
            for result in parallel(joblib.delayed(run_trial)(trial) for trial in trials):
                results.append(result)
                advance()
        except KeyboardInterrupt:
            # Without this the workers finish what they have before the process may end.
            get_reusable_executor().shutdown(wait=False, kill_workers=True)
            raise
    order = {(t.recipe, t.source, t.seed): index for index, t in enumerate(trials)}
    return sorted(results, key=lambda r: order[r.recipe, r.source, r.seed])


def _scoreboard(results: list[TrialResult], options: AttackOptions, tap: str | None, test_images: int) -> Scoreboard:
    summary, best = summarise(results)
    training = options.training
    return Scoreboard(
        rows=[
            Row(recipe=r.recipe, source=r.source, seed=r.seed, psnr=r.psnr, ssim=r.ssim, diverged=r.diverged)
            for r in results
        ],
        summary=summary,
        best_response=best,
        seeds=options.seeds,
        steps=training.steps,
        student=f"{training.family}, width {training.width}, {training.blocks} blocks",
        student_parameters=results[0].parameters,
        tap=tap,
        test_images=test_images,
    )
