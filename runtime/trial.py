"""One trial: one student, trained with one recipe from one source with one seed, and scored."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field

from kdguard.export.image_pairs import ImagePair
from kdguard.export.tasks import Image, get_task
from kdguard.runtime.metrics import psnr, ssim
from kdguard.runtime.recipes import Batch, Recipe, get_recipe
from kdguard.runtime.students import build_student
from kdguard.runtime.teacher_cache import TeacherAnswers

if TYPE_CHECKING:
    import torch

Source = Literal["none", "clean", "hardened"]
CURVE_POINTS = 40


class TrainingOptions(BaseModel):
    """How every student of a run is built and trained."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    family: Literal["residual-cnn"] = "residual-cnn"
    width: int = Field(16, ge=1, le=512)
    blocks: int = Field(4, ge=0, le=64)
    steps: int = Field(600, ge=1)
    batch: int = Field(8, ge=1)
    patch: int = Field(48, ge=8, description="side of the random crops, in pixels of the degraded image")
    learning_rate: float = Field(2e-3, gt=0)


@dataclass(frozen=True)
class Trial:
    """Everything a worker process needs; arrays travel as paths.

    Attributes:
        tiles: .npy paths of the attacker's images: degraded [M, C, H, W], clean [M, C, H*s, W*s].
        answers: the teacher's, None for recipes that ask none.
        sample: index of the test image whose restoration is returned for the report.
    """

    recipe: str
    source: Source
    seed: int
    task: str
    scale: int
    options: TrainingOptions
    tiles: tuple[str, str]
    answers: TeacherAnswers | None
    test: tuple[ImagePair, ...]
    threads: int
    sample: int = 0


@dataclass(frozen=True)
class TrialResult:
    """What came of a trial.

    Attributes:
        psnr: mean over the test images, dB.
        ssim: likewise.
        curve: (step, mean L1 to ground truth on training batches since the last point).
        parameters: of the student.
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


def run_trial(trial: Trial) -> TrialResult:
    """Train and score one student. Same trial, same thread count, same numbers."""
    import torch

    torch.set_num_threads(trial.threads)
    torch.manual_seed(trial.seed)
    recipe, options = get_recipe(trial.recipe), trial.options
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    batches = _Batches(trial, recipe, device)
    student = build_student(options.family, options.width, options.blocks, batches.channels, trial.scale).to(device)
    adaptor = recipe.adaptor(student.feature_channels, batches.feature_channels) if recipe.taps else None
    parameters = list(student.parameters())
    if adaptor is not None:
        adaptor.to(device)
        parameters += list(adaptor.parameters())
    optimiser = torch.optim.Adam(parameters, lr=options.learning_rate)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, options.steps)

    curve: list[tuple[int, float]] = []
    recent: list[float] = []
    interval = max(1, options.steps // CURVE_POINTS)
    for step in range(1, options.steps + 1):
        batch = batches.draw()
        output, features = student.restore(batch.degraded)
        loss = recipe.loss(output, features, batch, adaptor)
        optimiser.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimiser.step()
        schedule.step()
        recent.append((output.detach() - batch.clean).abs().mean().item())
        if step % interval == 0 or step == options.steps:
            curve.append((step, float(np.mean(recent))))
            recent = []
    return _score(trial, student, curve, device)


class _Batches:
    """Random crops of the tiles with the teacher's answers to them, in step."""

    def __init__(self, trial: Trial, recipe: Recipe, device: torch.device) -> None:
        self._degraded, self._clean = (np.load(path, mmap_mode="r") for path in trial.tiles)
        answers = trial.answers if recipe.queries else None
        self._outputs = np.load(answers.outputs, mmap_mode="r") if answers else None
        tapped = answers.features if answers and recipe.taps else None
        self._features = np.load(tapped, mmap_mode="r") if tapped else None
        self._rng = np.random.default_rng([trial.seed, 1])
        self._options, self._device = trial.options, device
        self.channels: int = self._degraded.shape[1]
        self.feature_channels: int = 0 if self._features is None else self._features.shape[1]
        self._patch = min(trial.options.patch, *self._degraded.shape[2:])
        # Crops start where a pixel of the tapped map starts, so that image and map stay aligned.
        self._grid = 1
        if self._features is not None:
            self._grid = max(1, round(self._degraded.shape[2] / self._features.shape[2]))
            self._patch = max(self._grid, self._patch - self._patch % self._grid)

    def draw(self) -> Batch:
        height, width = self._degraded.shape[2:]
        places = [
            (int(self._rng.integers(len(self._degraded))), self._start(height), self._start(width))
            for _ in range(self._options.batch)
        ]
        degraded = self._crops(self._degraded, places)
        assert degraded is not None
        clean = self._crops(self._clean, places)
        assert clean is not None
        return Batch(degraded, clean, self._crops(self._outputs, places), self._crops(self._features, places))

    def _start(self, side: int) -> int:
        return int(self._rng.integers((side - self._patch) // self._grid + 1)) * self._grid

    def _crops(self, array: NDArray[np.float32] | None, places: list[tuple[int, int, int]]) -> torch.Tensor | None:
        """The same crops of an array whose height and width are those of the tiles times a ratio."""
        import torch

        if array is None:
            return None
        ratio_y, ratio_x = (a / b for a, b in zip(array.shape[2:], self._degraded.shape[2:], strict=True))
        height, width = round(self._patch * ratio_y), round(self._patch * ratio_x)
        crops = []
        for index, top, left in places:
            y, x = round(top * ratio_y), round(left * ratio_x)
            crops.append(array[index, :, y : y + height, x : x + width])
        return torch.from_numpy(np.stack(crops)).to(self._device)


def _score(trial: Trial, student: torch.nn.Module, curve: list[tuple[int, float]], device: torch.device) -> TrialResult:
    import torch

    task = get_task(trial.task)
    images = []
    with torch.no_grad():
        for pair in trial.test:
            tensor = torch.from_numpy(pair.degraded.transpose(2, 0, 1)[None].copy()).to(device)
            images.append(student(tensor)[0].cpu().numpy().transpose(1, 2, 0))
    diverged = not all(np.isfinite(image).all() for image in images)
    images = [np.nan_to_num(image) for image in images]
    scored = list(zip(images, trial.test, strict=True))
    return TrialResult(
        recipe=trial.recipe,
        source=trial.source,
        seed=trial.seed,
        psnr=float(np.mean([psnr(image, pair.clean, task, trial.scale) for image, pair in scored])),
        ssim=float(np.mean([ssim(image, pair.clean, task, trial.scale) for image, pair in scored])),
        diverged=diverged,
        parameters=sum(p.numel() for p in student.parameters()),
        curve=curve,
        sample=images[trial.sample],
        sample_index=trial.sample,
    )
