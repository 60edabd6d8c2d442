"""The training loop: Adam, cosine schedule, early stopping on validation, smaller batches where memory ends."""

from __future__ import annotations

import copy
import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from kdguard.export.errors import UserError
from kdguard.runtime.recipes import get_recipe
from kdguard.runtime.recipes.base import Recipe, Step
from kdguard.runtime.red_team.batches import Batches
from kdguard.runtime.students import build_student

if TYPE_CHECKING:
    import torch

    from kdguard.runtime.red_team.trial import Trial
    from kdguard.runtime.students.base import Student

EVALUATIONS = 20
"""Looks at the validation tiles over a full training."""

PATIENCE = 10
"""Looks without a new best after which training stops: with a cosine schedule the last ones matter most."""

CURVE_POINTS = 40
CEILING_DB = 100.0


@dataclass
class Trained:
    """A student, in its best state by validation unless early stopping was off.

    Attributes:
        diverged: the loss became NaN or infinite and no earlier state was kept.
        diverged_at: step at which the loss did so; 0 if it never did.
    """

    student: Student
    batch: int
    steps: int = 0
    diverged: bool = False
    diverged_at: int = 0
    validation_db: float = -math.inf
    curve: list[tuple[int, float]] = field(default_factory=list)
    validation_curve: list[tuple[int, float]] = field(default_factory=list)


def train(trial: Trial, device: torch.device) -> Trained:
    """Train a student; where memory runs out, again with half the images per step.

    Raises:
        UserError: not even one image per step fits.
    """
    batch = trial.options.batch
    while True:
        try:
            return _train(trial, device, batch)
        except (MemoryError, RuntimeError) as error:
            if not _out_of_memory(error):
                raise
        if batch == 1:
            raise UserError(
                f"{trial.recipe}: training runs out of memory with one crop of {trial.options.patch} pixels per step; "
                "use a smaller student or smaller crops"
            )
        batch //= 2


def _out_of_memory(error: BaseException) -> bool:
    import torch

    known = isinstance(error, MemoryError | torch.OutOfMemoryError)
    return known or "can't allocate memory" in str(error)


def _train(trial: Trial, device: torch.device, batch: int) -> Trained:
    import torch

    torch.manual_seed(trial.seed)
    recipe, options = get_recipe(trial.recipe), trial.options
    batches = Batches(trial.material, recipe, options.patch, trial.seed, device)
    student = build_student(options.family, options.size, batches.channels, trial.scale).to(device)
    helper = recipe.helper(student, batches.map_channels)
    parameters = list(student.parameters())
    if helper is not None:
        parameters += list(helper.to(device).parameters())
    optimiser = torch.optim.Adam(parameters, lr=trial.learning_rate)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, options.steps)
    trained = Trained(student, batch)
    judge = _Judge(batches, recipe, trained)
    recent: list[float] = []
    for step in range(1, options.steps + 1):
        drawn = batches.draw(batch)
        restoration = student.restore(drawn.degraded)
        loss = recipe.loss(Step(student, restoration, drawn, helper, trial.weight))
        trained.steps = step
        if not torch.isfinite(loss):
            trained.diverged_at = step
            break
        optimiser.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimiser.step()
        schedule.step()
        if drawn.owned.any():
            recent.append((restoration.output.detach() - drawn.clean)[drawn.owned].abs().mean().item())
        last = step == options.steps
        if recent and (last or step % max(1, options.steps // CURVE_POINTS) == 0):
            trained.curve.append((step, float(np.mean(recent))))
            recent = []
        if last or step % max(1, options.steps // EVALUATIONS) == 0:
            judge.look(step)
            if options.early_stopping and judge.unimproved >= PATIENCE:
                break
    if options.early_stopping and judge.best_state is not None:
        # A thief whose loss explodes late keeps the student from before.
        student.load_state_dict(judge.best_state)
    else:
        trained.diverged = trained.diverged_at > 0
        if trained.validation_curve:
            # Settings are chosen by the score of the student that is kept, and that is the last one.
            trained.validation_db = trained.validation_curve[-1][1]
    return trained


class _Judge:
    """Looks at the validation tiles and remembers the best student.

    Attributes:
        unimproved: looks since the best one.
    """

    def __init__(self, batches: Batches, recipe: Recipe, trained: Trained) -> None:
        self._tiles, self._wanted = batches.validation(recipe.ground_truth)
        self._trained = trained
        self.unimproved = 0
        self.best_state: dict[str, torch.Tensor] | None = None

    def look(self, step: int) -> None:
        """Score the student as it is."""
        import torch

        student = self._trained.student
        with torch.no_grad():
            errors = [
                (student(tile[None])[0].clamp(0, 1) - wanted.clamp(0, 1)).square().mean().item()
                for tile, wanted in zip(self._tiles, self._wanted, strict=True)
            ]
        # A mean of NaN compares as no improvement.
        score = float(np.mean([-10 * math.log10(max(error, 10 ** (-CEILING_DB / 10))) for error in errors]))
        if math.isfinite(score):
            self._trained.validation_curve.append((step, score))
        self.unimproved += 1
        if score > self._trained.validation_db:
            self._trained.validation_db = score
            self.best_state = copy.deepcopy(student.state_dict())
            self.unimproved = 0
