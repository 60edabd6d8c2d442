"""Training one student: crops stay aligned with the teacher's answers, and it learns."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from kdguard.export.image_pairs import ImagePair
from kdguard.runtime.recipes import get_recipe
from kdguard.runtime.recipes.fitnets import FitNets
from kdguard.runtime.students import FAMILIES, build_student
from kdguard.runtime.teacher_cache import TeacherAnswers
from kdguard.runtime.trial import TrainingOptions, Trial, _Batches, run_trial
from tests.conftest import photograph


def make_trial(folder: Path, *, scale: int, feature_step: int, steps: int = 30, recipe: str = "fitnets") -> Trial:
    """Arrays that hold their own row number, so that any misalignment of crops shows."""
    side = 32
    rows = np.arange(side, dtype=np.float32)[:, None] + np.zeros((1, side), np.float32)
    degraded = np.stack([rows[None].repeat(3, 0) / side] * 4)
    clean = degraded.repeat(scale, axis=2).repeat(scale, axis=3)
    features = np.stack([rows[::feature_step, ::feature_step][None] / side] * 4)
    paths = {}
    for name, array in {"degraded": degraded, "clean": clean, "outputs": clean, "features": features}.items():
        paths[name] = folder / f"{name}.npy"
        np.save(paths[name], array)
    image = photograph(24).astype(np.float32) / 255
    return Trial(
        recipe=recipe,
        source="clean",
        seed=0,
        task="super-resolution" if scale > 1 else "deraining",
        scale=scale,
        options=TrainingOptions(width=8, blocks=1, steps=steps, batch=3, patch=14, learning_rate=5e-3),
        tiles=(str(paths["degraded"]), str(paths["clean"])),
        answers=TeacherAnswers(paths["outputs"], paths["features"]),
        test=(ImagePair("t", image[::scale, ::scale].copy(), image),),
        threads=1,
    )


@pytest.mark.parametrize("scale", [1, 2])
@pytest.mark.parametrize("feature_step", [1, 2, 4])
def test_crops_are_aligned(tmp_path: Path, scale: int, feature_step: int) -> None:
    batches = _Batches(
        make_trial(tmp_path, scale=scale, feature_step=feature_step), get_recipe("fitnets"), torch.device("cpu")
    )
    for _ in range(5):
        batch = batches.draw()
        assert batch.teacher_output is not None
        assert batch.teacher_features is not None
        torch.testing.assert_close(batch.clean[:, :, ::scale, ::scale], batch.degraded)
        torch.testing.assert_close(batch.teacher_output, batch.clean)
        torch.testing.assert_close(batch.teacher_features, batch.degraded[:, :1, ::feature_step, ::feature_step])


def test_recipes_get_only_what_they_ask_for(tmp_path: Path) -> None:
    trial = make_trial(tmp_path, scale=1, feature_step=1)
    batch = _Batches(trial, get_recipe("scratch"), torch.device("cpu")).draw()
    assert batch.teacher_output is None
    assert batch.teacher_features is None
    assert _Batches(trial, get_recipe("output-l1"), torch.device("cpu")).draw().teacher_features is None


def test_same_trial_same_numbers_and_loss_falls(tmp_path: Path) -> None:
    trial = make_trial(tmp_path, scale=2, feature_step=1, steps=60, recipe="output-l1")
    first, second = run_trial(trial), run_trial(trial)
    assert (first.psnr, first.curve) == (second.psnr, second.curve)
    assert first.curve[-1][1] < 0.5 * first.curve[0][1]
    assert first.curve[-1][0] == 60
    assert not first.diverged


def test_the_adaptor_is_trained_along(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[tuple[torch.nn.Conv2d, torch.Tensor]] = []
    original = FitNets.adaptor

    def remember(self: FitNets, student: int, teacher: int) -> torch.nn.Module:
        adaptor = original(self, student, teacher)
        assert isinstance(adaptor, torch.nn.Conv2d)
        made.append((adaptor, adaptor.weight.detach().clone()))
        return adaptor

    monkeypatch.setattr(FitNets, "adaptor", remember)
    run_trial(make_trial(tmp_path, scale=1, feature_step=1, steps=3))
    ((adaptor, before),) = made
    assert not torch.equal(adaptor.weight, before)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("scale", [1, 2, 4])
def test_students_have_the_right_shapes(family: str, scale: int) -> None:
    student = build_student(family, 8, 2, 3, scale)
    output, features = student.restore(torch.zeros(2, 3, 10, 12))
    assert output.shape == (2, 3, 10 * scale, 12 * scale)
    assert features.shape == (2, student.feature_channels, 10, 12)
