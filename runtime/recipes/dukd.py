"""Data upcycling: the teacher also labels zoomed images, and the student is taught to agree under flips."""

from __future__ import annotations

from typing import TYPE_CHECKING

from kdguard.runtime.recipes.base import Recipe, Step
from kdguard.runtime.recipes.terms import l1, to_teacher, to_truth

if TYPE_CHECKING:
    from torch import Tensor

    from kdguard.runtime.red_team.pieces import Pieces, Scissors


class Dukd(Recipe):
    """L1(S, GT) + L1(S, T) + L1(f^-1(S(f(x))), T(x)), f mirrors at random; where S enlarges it turns and inverts, too.

    Ground truth counts on the attacker's own tiles only; the teacher's terms also on tiles of images
    that were zoomed in and out, which the teacher labels.
    """

    name = "dukd"
    tier = "T0"
    source = "Zhang et al., arXiv 2309.14162"
    ground_truth = True

    def pieces(self, scissors: Scissors) -> Pieces:
        return scissors.with_zoomed()

    def loss(self, step: Step) -> Tensor:
        assert step.batch.teacher_output is not None
        return to_truth(step) + to_teacher(step) + l1(_consistent(step), step.batch.teacher_output)


def _consistent(step: Step) -> Tensor:
    """f^-1(S(f(x))) for a random invertible f."""
    import torch

    turns, mirrored, inverted = _drawn(step.student.scale)
    values = step.batch.degraded
    values = values.flip(-1) if mirrored else values
    values = torch.rot90(values, turns, (-2, -1))
    output = step.student.restore(1 - values if inverted else values).output
    output = torch.rot90(1 - output if inverted else output, -turns, (-2, -1))
    return output.flip(-1) if mirrored else output


def _drawn(scale: int) -> tuple[int, bool, bool]:
    """Quarter turns, whether to mirror, whether to invert values; torch's random state draws them.

    The paper's task is super-resolution, where all of them commute with the degradation. Rain falls
    and streaks are bright, haze is bright and thick at the horizon, the dark is dark: elsewhere a
    student that agrees with himself upside down or in negative agrees on something wrong.
    """
    import torch

    turns, mirrored, inverted = (int(torch.randint(n, ())) for n in (4, 2, 2))
    return (turns, bool(mirrored), bool(inverted)) if scale > 1 else (0, bool(mirrored), False)
