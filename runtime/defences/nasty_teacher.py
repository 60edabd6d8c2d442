"""Nasty Teacher for restoration: the teacher fine-tuned away from what a student would learn of it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import onnx
from numpy.typing import NDArray

from kdguard.export.image_tensor import image_to_tensor
from kdguard.runtime.defences.base import Defence, Strengthen, Subject
from kdguard.runtime.defences.between import between
from kdguard.runtime.finetune import TrainableTeacher, finetune
from kdguard.runtime.red_team.pieces import Scissors
from kdguard.runtime.session import RestorationSession

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from kdguard.runtime.students.base import Student

TILES, TILE = 32, 64
STUDENT_STEPS, STUDENT_RATE = 400, 2e-3
STEPS, RATE = 100, 3e-5
BATCH = 2
AWAY = 0.5
"""Weight of the term that pushes away from the student; the best output is then 2 T - S. Calibration
takes of it what the budget allows."""


class NastyTeacher(Defence):
    """Fine-tuned on MSE(T', T) - w MSE(T', S), S a small student of the clean teacher, all weights trained.

    The original (Ma et al.) keeps the label and moves the other classes' probabilities; restoration
    has no such room, so what is moved is the output itself, away from the student. The strength is
    how far the weights go from the clean ones towards the fine-tuned ones.
    """

    name = "nasty-teacher"
    source = "Ma et al., ICLR 2021, adapted"
    unit = "share of the way from the clean weights to the fine-tuned ones"
    strengths = (1e-3, 1.0)

    def prepare(self, subject: Subject) -> Strengthen:
        nasty = _fine_tuned(subject)

        def strengthen(strength: float) -> onnx.ModelProto:
            return between(subject.model, nasty, strength)

        return strengthen


def _fine_tuned(subject: Subject) -> onnx.ModelProto:
    import torch

    card = subject.card
    tiles = Scissors(subject.pairs, card, TILES, TILE, subject.seed).own().train
    session = RestorationSession(subject.model, card)
    tensors = np.concatenate([image_to_tensor(tile.degraded, card) for tile in tiles])
    answers = torch.from_numpy(np.concatenate([session.run(tensors[i : i + 1])[0] for i in range(len(tensors))]))
    student = _student(tensors, answers, subject)
    rng = np.random.default_rng([subject.seed, 6])
    with torch.no_grad():
        imitated = _in_model_form(student(_in_student_form(tensors, subject)), subject)

    def loss(teacher: TrainableTeacher, _: int) -> Tensor:
        chosen = rng.choice(len(tensors), size=min(BATCH, len(tensors)), replace=False)
        output = teacher(tensors[chosen])[0]
        kept = (output - answers[chosen].to(output.device)).square().mean()
        return kept - AWAY * (output - imitated[chosen].to(output.device)).square().mean()

    return finetune(subject.model, card, loss, None, STEPS, RATE, "fine-tuning the nasty teacher")


def _in_student_form(tensors: NDArray[np.floating], subject: Subject) -> Tensor:
    """Model tensors as students want them: [N, C, H, W] in [0, 1]."""
    import torch

    low, _ = subject.card.value_range
    values = (torch.from_numpy(np.asarray(tensors, np.float32)) - low) / subject.white
    return values.permute(0, 3, 1, 2) if subject.card.layout == "NHWC" else values


def _in_model_form(values: Tensor, subject: Subject) -> Tensor:
    low, _ = subject.card.value_range
    scaled = values * subject.white + low
    return scaled.permute(0, 2, 3, 1) if subject.card.layout == "NHWC" else scaled


def _student(tensors: NDArray[np.floating], answers: torch.Tensor, subject: Subject) -> Student:
    """A small student that imitates the clean teacher."""
    import torch

    from kdguard.runtime.students import build_student
    from kdguard.runtime.terminal import progress_bar

    torch.manual_seed(subject.seed)
    images = _in_student_form(tensors, subject)
    wanted = _in_student_form(answers.numpy(), subject)
    student = build_student("residual-cnn", "small", images.shape[1], subject.card.scale)
    optimiser = torch.optim.Adam(student.parameters(), lr=STUDENT_RATE)
    with progress_bar("training a student to turn away from", STUDENT_STEPS) as advance:
        for _ in range(STUDENT_STEPS):
            chosen = torch.randint(len(images), (4,))
            loss = (student(images[chosen]) - wanted[chosen]).abs().mean()
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            advance()
    return student
