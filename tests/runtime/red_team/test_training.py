"""Training one student: crops stay aligned with the teacher's answers, and it learns."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from kdguard.export.errors import UserError
from kdguard.export.image_pairs import ImagePair
from kdguard.export.tasks import get_task
from kdguard.runtime.metrics import psnr, ssim
from kdguard.runtime.recipes import RECIPES, get_recipe
from kdguard.runtime.recipes.base import Step
from kdguard.runtime.recipes.fitnets import FitNets
from kdguard.runtime.recipes.output_l1 import OutputL1
from kdguard.runtime.red_team.batches import Batches
from kdguard.runtime.red_team.material import Material, Tiles, store_test_set
from kdguard.runtime.red_team.options import TrainingOptions
from kdguard.runtime.red_team.teacher_cache import Answers
from kdguard.runtime.red_team.training import CEILING_DB, EVALUATIONS, PATIENCE, Trained, _Judge
from kdguard.runtime.red_team.trial import Trial, run_trial
from kdguard.runtime.students.base import Student
from tests.conftest import photograph

TILES, VALIDATION = 4, 2


def make_trial(
    folder: Path, *, scale: int = 1, feature_step: int = 1, steps: int = 30, recipe: str = "fitnets", **more: object
) -> Trial:
    """Arrays that hold their own row number, so that any misalignment of crops shows."""
    side = 32
    rows = np.arange(side, dtype=np.float32)[:, None] + np.zeros((1, side), np.float32)
    degraded = np.stack([rows[None].repeat(3, 0) / side] * (TILES + VALIDATION))
    clean = degraded.repeat(scale, axis=2).repeat(scale, axis=3)
    features = np.stack([rows[::feature_step, ::feature_step][None] / side] * (TILES + VALIDATION))
    paths = {}
    for name, array in {
        "degraded": degraded,
        "clean": clean,
        "outputs": clean,
        "spread": clean[:, :1],
        "features": features,
    }.items():
        paths[name] = folder / f"{name}.npy"
        np.save(paths[name], array)
    image = photograph(24).astype(np.float32) / 255
    options = TrainingOptions.model_validate({"steps": steps, "batch": 3, "patch": 14, **more})
    return Trial(
        recipe=recipe,
        source="clean",
        seed=0,
        learning_rate=5e-3,
        weight=1.0,
        task="super-resolution" if scale > 1 else "deraining",
        scale=scale,
        options=options,
        material=Material(
            Tiles(paths["degraded"], paths["clean"], TILES, 1, "tiles"),
            Answers(paths["outputs"], (paths["features"],), paths["spread"]),
            "answers",
        ),
        test=store_test_set([ImagePair("t", image[::scale, ::scale].copy(), image)], folder),
    )


def batches_of(trial: Trial, recipe: str) -> Batches:
    return Batches(trial.material, get_recipe(recipe), trial.options.patch, trial.seed, torch.device("cpu"))


@pytest.mark.parametrize("scale", [1, 2])
@pytest.mark.parametrize("feature_step", [1, 2, 4])
def test_crops_are_aligned(tmp_path: Path, scale: int, feature_step: int) -> None:
    batches = batches_of(make_trial(tmp_path, scale=scale, feature_step=feature_step), "fitnets")
    for _ in range(5):
        batch = batches.draw(3)
        assert batch.teacher_output is not None
        torch.testing.assert_close(batch.clean[:, :, ::scale, ::scale], batch.degraded)
        torch.testing.assert_close(batch.teacher_output, batch.clean)
        torch.testing.assert_close(batch.teacher_spread, batch.clean[:, :1])
        torch.testing.assert_close(batch.teacher_maps[0], batch.degraded[:, :1, ::feature_step, ::feature_step])


def test_recipes_get_only_what_they_ask_for(tmp_path: Path) -> None:
    trial = make_trial(tmp_path)
    assert batches_of(trial, "output-l1").draw(2).teacher_maps == ()
    unasked = replace(trial.material, answers=None)
    assert batches_of(replace(trial, material=unasked), "scratch").draw(2).teacher_output is None


def test_batches_are_drawn_from_training_tiles_only(tmp_path: Path) -> None:
    trial = make_trial(tmp_path)
    degraded = np.load(trial.material.tiles.degraded)
    degraded[TILES:] = 7
    degraded[TILES - 1] = 3
    np.save(trial.material.tiles.degraded, degraded)
    batches = batches_of(trial, "output-l1")
    batch = batches.draw(200)
    assert batch.degraded.max() == 3
    # The last training tile is one that the recipe made itself: it has no ground truth.
    made = (batch.degraded == 3).all(dim=(1, 2, 3))
    assert 0 < made.sum() < 200
    torch.testing.assert_close(batch.owned, ~made)
    tiles, wanted = batches.validation(truth=True)
    assert len(tiles) == len(wanted) == VALIDATION
    assert (tiles == 7).all()


def test_who_has_no_ground_truth_validates_on_the_teacher(tmp_path: Path) -> None:
    trial = make_trial(tmp_path)
    np.save(trial.material.tiles.clean, np.zeros((TILES + VALIDATION, 3, 32, 32), np.float32))
    assert batches_of(trial, "output-l1").validation(truth=False)[1].max() > 0
    assert batches_of(trial, "output-l1").validation(truth=True)[1].max() == 0


def test_same_trial_same_numbers_and_loss_falls(tmp_path: Path) -> None:
    trial = make_trial(tmp_path, scale=2, steps=60, recipe="output-l1")
    first, second = run_trial(trial, 1), run_trial(trial, 1)
    assert (first.psnr, first.curve, first.validation_curve) == (second.psnr, second.curve, second.validation_curve)
    assert first.curve[-1][1] < 0.5 * first.curve[0][1]
    assert first.curve[-1][0] == first.steps == 60
    assert not first.diverged


def test_the_adaptor_is_trained_along(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[tuple[torch.nn.Conv2d, torch.Tensor]] = []
    original = FitNets.helper

    def remember(self: FitNets, student: Student, map_channels: Sequence[int]) -> torch.nn.Module:
        adaptor = original(self, student, map_channels)
        assert isinstance(adaptor, torch.nn.Conv2d)
        made.append((adaptor, adaptor.weight.detach().clone()))
        return adaptor

    monkeypatch.setattr(FitNets, "helper", remember)
    run_trial(make_trial(tmp_path, steps=3), 1)
    ((adaptor, before),) = made
    assert not torch.equal(adaptor.weight, before)


def spoiling(after: int, factor: float = -1.0) -> Callable[[OutputL1, Step], torch.Tensor]:
    """A loss that teaches for a while and is then multiplied: by default it pushes the student away."""
    count = 0
    original = OutputL1.loss

    def loss(self: OutputL1, step: Step) -> torch.Tensor:
        nonlocal count
        count += 1
        return original(self, step) * (1 if count <= after else factor)

    return loss


def test_the_best_student_by_validation_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(OutputL1, "loss", spoiling(20))
    kept = run_trial(make_trial(tmp_path, steps=40, recipe="output-l1"), 1)
    monkeypatch.setattr(OutputL1, "loss", spoiling(20))
    last = run_trial(make_trial(tmp_path, steps=40, recipe="output-l1", early_stopping=False), 1)
    assert kept.validation_db == max(score for _, score in kept.validation_curve)
    assert kept.psnr > last.psnr + 3
    assert last.steps == 40


def test_whoever_keeps_the_last_student_chooses_by_its_score(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A rate whose students peak early and then collapse is no good rate to him."""
    monkeypatch.setattr(OutputL1, "loss", spoiling(20))
    last = run_trial(make_trial(tmp_path, steps=40, recipe="output-l1", early_stopping=False), 1)
    scores = [score for _, score in last.validation_curve]
    assert last.validation_db == scores[-1] < max(scores)


@pytest.mark.parametrize("scale", [1, 2])
def test_test_images_are_scored_by_the_tasks_own_convention(tmp_path: Path, scale: int) -> None:
    """Super-resolution leaves a border of the scale out."""
    trial = make_trial(tmp_path, scale=scale, steps=2, recipe="output-l1")
    (pair,) = trial.test.load()
    result = run_trial(trial, 1)
    task = get_task(trial.task)
    assert result.psnr == pytest.approx(psnr(result.sample, pair.clean, task, scale))
    assert result.ssim == pytest.approx(ssim(result.sample, pair.clean, task, scale))
    assert scale == 1 or result.psnr != pytest.approx(psnr(result.sample, pair.clean, task, 1))


def test_validation_clips_as_the_score_does() -> None:
    """Blacker than black is black."""

    class Dark(torch.nn.Module):
        def forward(self, tiles: torch.Tensor) -> torch.Tensor:
            return tiles - 5

    class Tiles:
        def validation(self, truth: bool) -> tuple[torch.Tensor, torch.Tensor]:
            return torch.zeros(2, 3, 4, 4), torch.zeros(2, 3, 4, 4)

    trained = Trained(Dark(), 1)  # type: ignore[arg-type]
    _Judge(Tiles(), get_recipe("scratch"), trained).look(1)  # type: ignore[arg-type]
    assert trained.validation_db == CEILING_DB


def test_training_stops_when_nothing_gets_better(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(OutputL1, "loss", spoiling(0))
    result = run_trial(make_trial(tmp_path, steps=200, recipe="output-l1"), 1)
    assert result.steps <= (PATIENCE + 1) * 200 // EVALUATIONS + 1
    longer = run_trial(make_trial(tmp_path, steps=200, recipe="output-l1", early_stopping=False), 1)
    assert longer.steps == 200


def test_a_loss_of_nan_is_divergence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(OutputL1, "loss", lambda _self, step: step.restoration.output.sum() * float("nan"))
    result = run_trial(make_trial(tmp_path, recipe="output-l1"), 1)
    assert (result.diverged, result.diverged_at, result.steps) == (True, 1, 1)


def test_the_pooled_score_is_of_the_mean_error(tmp_path: Path) -> None:
    trial = make_trial(tmp_path, recipe="output-l1", steps=2)
    image = photograph(24).astype(np.float32) / 255
    pairs = [ImagePair("a", image, image), ImagePair("b", image, 1 - image)]
    both = run_trial(replace(trial, test=store_test_set(pairs, tmp_path)), 1)
    single = [run_trial(replace(trial, test=store_test_set([pair], tmp_path)), 1).psnr for pair in pairs]
    assert both.psnr == pytest.approx(np.mean(single))
    assert both.pooled_db == pytest.approx(-10 * np.log10(np.mean([10 ** (-score / 10) for score in single])))


def test_the_rate_falls_to_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rates: list[float] = []
    original = torch.optim.Adam.step

    def remember(self: torch.optim.Adam, closure: None = None) -> float | None:
        rates.append(self.param_groups[0]["lr"])
        return original(self, closure)

    monkeypatch.setattr(torch.optim.Adam, "step", remember)
    run_trial(make_trial(tmp_path, steps=20, recipe="output-l1"), 1)
    assert rates[0] == 5e-3
    assert rates == sorted(rates, reverse=True)
    assert rates[-1] < 0.01 * rates[0]


def test_seeds_see_other_batches(tmp_path: Path) -> None:
    trial = make_trial(tmp_path)
    first, again, other = (batches_of(replace(trial, seed=seed), "output-l1").draw(20).degraded for seed in (0, 0, 1))
    torch.testing.assert_close(first, again)
    assert not torch.equal(first, other)


def test_whoever_has_no_ground_truth_never_chooses_by_it(tmp_path: Path) -> None:
    trial = make_trial(tmp_path, recipe="output-l1")
    blind = run_trial(trial, 1)
    clean = np.load(trial.material.tiles.clean)
    np.save(trial.material.tiles.clean, np.zeros_like(clean))
    assert run_trial(trial, 1).validation_curve == blind.validation_curve
    with_truth = replace(trial, recipe="output+gt")
    assert run_trial(with_truth, 1).validation_db != blind.validation_db


def running_out(limit: int) -> Callable[[OutputL1, Step], torch.Tensor]:
    original = OutputL1.loss

    def loss(self: OutputL1, step: Step) -> torch.Tensor:
        if len(step.batch.degraded) > limit:
            raise torch.OutOfMemoryError("no")
        return original(self, step)

    return loss


def test_where_memory_runs_out_the_batch_is_halved(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(OutputL1, "loss", running_out(2))
    assert run_trial(make_trial(tmp_path, steps=3, recipe="output-l1", batch=8), 1).batch == 2
    monkeypatch.setattr(OutputL1, "loss", running_out(0))
    with pytest.raises(UserError, match="out of memory"):
        run_trial(make_trial(tmp_path, steps=3, recipe="output-l1", batch=8), 1)


def test_other_errors_are_not_taken_for_a_full_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(_self: OutputL1, _step: Step) -> torch.Tensor:
        raise RuntimeError("something else")

    monkeypatch.setattr(OutputL1, "loss", broken)
    with pytest.raises(RuntimeError, match="something else"):
        run_trial(make_trial(tmp_path, recipe="output-l1"), 1)


@pytest.mark.parametrize("family", ["residual-cnn", "unet"])
@pytest.mark.parametrize("recipe", sorted(RECIPES))
def test_every_recipe_trains_every_family(tmp_path: Path, family: str, recipe: str) -> None:
    trial = make_trial(tmp_path, steps=3, recipe=recipe, feature_step=2, scale=2, family=family)
    features = trial.material.answers
    assert features is not None
    maps = features.maps * get_recipe(recipe).taps
    result = run_trial(replace(trial, material=replace(trial.material, answers=replace(features, maps=maps))), 1)
    assert np.isfinite(result.psnr)
    assert not result.diverged


def test_the_key_of_a_trial_is_all_that_its_result_depends_on(tmp_path: Path) -> None:
    trial = make_trial(tmp_path)
    other_steps = trial.options.model_copy(update={"steps": 31})
    changed = [
        replace(trial, seed=1),
        replace(trial, learning_rate=1e-3),
        replace(trial, weight=0.5),
        replace(trial, source="hardened"),
        replace(trial, recipe="fakd"),
        replace(trial, options=other_steps),
        replace(trial, material=replace(trial.material, identity="other")),
        replace(trial, test=replace(trial.test, identity="other")),
    ]
    keys = {trial.key, *(other.key for other in changed)}
    assert len(keys) == 1 + len(changed)
    # Rates that were not used, and where files lie, change nothing.
    elsewhere = replace(trial.material, tiles=replace(trial.material.tiles, degraded=Path("elsewhere.npy")))
    rates = trial.options.model_copy(update={"learning_rates": (1.0,)})
    assert replace(trial, material=elsewhere, options=rates).key == trial.key
