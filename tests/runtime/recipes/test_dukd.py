"""Consistency under invertible changes: which are drawn, and that they are undone."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from kdguard.runtime.recipes import Batch, Step, get_recipe
from kdguard.runtime.recipes.dukd import Dukd
from kdguard.runtime.students.base import Restoration
from tests.runtime.recipes.test_losses import (
    CLEAN,
    DEEP,
    SHALLOW,
    TEACHER,
    TO_TEACHER,
    TO_TRUTH,
    Halving,
    loss_of,
    step,
)

IMAGE = torch.arange(9.0).reshape(1, 1, 3, 3) / 10


class Remembering(Halving):
    """Answers with what it is shown, enlarged; remembers it."""

    def __init__(self, scale: int) -> None:
        super().__init__()
        self.scale, self.shown = scale, set[bytes]()

    def restore(self, degraded: Tensor) -> Restoration:
        self.shown.add((degraded * 10).round().numpy().tobytes())
        return Restoration(self.enlarge(degraded), (SHALLOW, DEEP))

    def enlarge(self, image: Tensor) -> Tensor:
        return image.repeat_interleave(self.scale, -1).repeat_interleave(self.scale, -2)


def losses(student: Remembering) -> list[float]:
    """Of an agreeing teacher and student, under many draws."""
    answer = student.enlarge(IMAGE)
    given = Step(student, Restoration(answer, (SHALLOW, DEEP)), Batch(IMAGE, answer, torch.tensor([True]), answer))
    found = []
    for seed in range(300):
        torch.manual_seed(seed)
        found.append(float(Dukd().loss(given)))
    return found


def seen(*images: Tensor) -> set[bytes]:
    return {(image * 10).round().contiguous().numpy().tobytes() for image in images}


def test_what_enlarges_is_turned_mirrored_and_inverted() -> None:
    student = Remembering(scale=2)
    losses(student)
    views = [torch.rot90(image, turns, (-2, -1)) for image in (IMAGE, IMAGE.flip(-1)) for turns in range(4)]
    assert student.shown == seen(*views, *(1 - view for view in views))
    assert len(student.shown) == 16


def test_what_does_not_enlarge_is_mirrored_only() -> None:
    """Rain that falls upwards in negative is no rain."""
    student = Remembering(scale=1)
    losses(student)
    assert student.shown == seen(IMAGE, IMAGE.flip(-1))


@pytest.mark.parametrize("scale", [1, 2])
def test_every_change_is_undone(scale: int) -> None:
    assert max(losses(Remembering(scale))) == pytest.approx(0, abs=1e-6)


def test_it_asks_for_agreement_with_the_teacher() -> None:
    degraded = torch.tensor([[[[0.0, 0.2], [0.4, 1.0]]]])
    asked = Batch(degraded, CLEAN, torch.tensor([True]), TEACHER)
    # Halving commutes with mirroring, and the teacher answers the same everywhere.
    apart = (0.2 + 0.1 + 0.0 + 0.3) / 4
    assert loss_of("dukd", step(asked=asked)) == pytest.approx(TO_TRUTH + TO_TEACHER + apart)
    assert get_recipe("dukd").ground_truth
