"""One trial: one student, trained with one recipe from one source with one seed, and scored."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np

from kdguard.export.tasks import Image, get_task
from kdguard.runtime.metrics import psnr, ssim
from kdguard.runtime.recipes import get_recipe
from kdguard.runtime.recipes.base import Source, training_class
from kdguard.runtime.red_team.bound import pooled_db
from kdguard.runtime.red_team.code_hash import hash_code, modules_of
from kdguard.runtime.red_team.material import Material, TestSet
from kdguard.runtime.red_team.options import TrainingOptions

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class Trial:
    """Everything a worker process needs; arrays travel as paths."""

    recipe: str
    source: Source
    seed: int
    learning_rate: float
    weight: float
    task: str
    scale: int
    options: TrainingOptions
    material: Material
    test: TestSet

    @cached_property
    def key(self) -> str:
        """Hash of all that the result depends on: code, torch and its device are part of it.

        Recipes that only ask otherwise (`strip`, `pre-tap`) train alike, and share their students where the
        answers are the same files. Whoever asks first decides on torch and device: a trial takes its key along
        to other machines.
        """
        trained_by = training_class(get_recipe(self.recipe))
        parts = (
            (trained_by.__qualname__, self.source, self.seed, self.learning_rate, self.weight, self.task, self.scale),
            # Rates are alternatives that other trials try.
            self.options.model_dump_json(exclude={"learning_rates"}),
            (self.material.identity, self.test.identity),
            hash_code(__name__, *modules_of(trained_by)),
            _arithmetic(),
        )
        return hashlib.sha256(repr(parts).encode()).hexdigest()[:32]


@dataclass(frozen=True)
class TrialResult:
    """What came of a trial.

    Attributes:
        psnr: mean over the test images, dB.
        ssim: likewise.
        pooled_db: PSNR of the mean square error over all test images together, which bounds are about.
        validation_db: best PSNR on the validation tiles; what choices are made by.
        diverged: the loss became NaN or infinite and no earlier student was kept, or its images did.
        diverged_at: step at which the loss did so; 0 if it never did.
        parameters: of the student.
        steps: that were trained.
        batch: images per step; smaller than asked for where memory ran out.
        curve: (step, mean L1 to ground truth on training batches since the last point).
        validation_curve: (step, PSNR on the validation tiles).
        sample: the student's restoration of the sample image, [H, W, C].
        sample_index: which test image that is.
    """

    recipe: str
    source: Source
    seed: int
    psnr: float
    ssim: float
    diverged: bool
    parameters: int
    curve: list[tuple[int, float]] = field(repr=False)
    sample: Image = field(repr=False)
    sample_index: int = 0
    pooled_db: float = 0.0
    diverged_at: int = 0
    validation_db: float = 0.0
    validation_curve: list[tuple[int, float]] = field(default_factory=list, repr=False)
    learning_rate: float = 0.0
    weight: float = 1.0
    steps: int = 0
    batch: int = 0


def _arithmetic() -> tuple[str, str]:
    """Version and device of torch: other ones round otherwise."""
    import torch

    return torch.__version__, _device().type


def _device() -> torch.device:
    import torch

    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def run_trial(trial: Trial, threads: int) -> TrialResult:
    """Train and score one student. Same trial, same thread count, same numbers.

    Args:
        threads: of torch on the CPU.

    Raises:
        UserError: not even one image per step fits into memory.
    """
    import torch

    from kdguard.runtime.red_team.training import train

    torch.set_num_threads(threads)
    device = _device()
    trained = train(trial, device)
    task, pairs, images = get_task(trial.task), trial.test.load(), []
    with torch.no_grad():
        for pair in pairs:
            tensor = torch.from_numpy(pair.degraded.transpose(2, 0, 1)[None].copy()).to(device)
            images.append(trained.student(tensor)[0].cpu().numpy().transpose(1, 2, 0))
    diverged = trained.diverged or not all(np.isfinite(image).all() for image in images)
    scored = [(np.nan_to_num(image), pair) for image, pair in zip(images, pairs, strict=True)]
    scores = [psnr(image, pair.clean, task, trial.scale) for image, pair in scored]
    return TrialResult(
        recipe=trial.recipe,
        source=trial.source,
        seed=trial.seed,
        psnr=float(np.mean(scores)),
        ssim=float(np.mean([ssim(image, pair.clean, task, trial.scale) for image, pair in scored])),
        diverged=diverged,
        diverged_at=trained.diverged_at,
        pooled_db=pooled_db(scores),
        parameters=sum(p.numel() for p in trained.student.parameters()),
        curve=trained.curve,
        sample=scored[trial.test.sample][0],
        sample_index=trial.test.sample,
        validation_db=trained.validation_db,
        validation_curve=trained.validation_curve,
        learning_rate=trial.learning_rate,
        weight=trial.weight,
        steps=trained.steps,
        batch=trained.batch,
    )
