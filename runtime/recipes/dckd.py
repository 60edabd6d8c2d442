"""Dynamic contrastive distillation: far from what the student itself answered some steps ago."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import TYPE_CHECKING

from kdguard.runtime.recipes.base import Step
from kdguard.runtime.recipes.contrastive import Contrastive, contrast, stages_of
from kdguard.runtime.recipes.terms import to_teacher, to_truth

if TYPE_CHECKING:
    from torch import Tensor, nn

    from kdguard.runtime.students.base import Student

NOISY = 4
"""Negatives made of further degraded images, beside the one made of the degraded image."""

NOISE = (1 / 255, 30 / 255)
"""Standard deviations of the noise, from and to."""

FOLLOW_EVERY = 5
"""Steps after which the earlier student follows: DCKD's 1000 to 3000 of 250,000 are 2 to 7 of our 600."""

KEPT = 0.1
"""Share that stays of the earlier student's weights when it follows."""


class Dckd(Contrastive):
    """L1(S, GT) + L1(S, T) + the term of `contrastive`, N_k what an earlier S answers to x and to noisy x.

    DCKD's dynamic contrastive regularisation alone, in the eyes of the frozen network of `contrastive`.
    Its second part, cross-entropy between the codes of a pretrained VQGAN, is left out together with
    that network; its code's consistency under flips is what `dukd` does.
    """

    name = "dckd"
    source = "DCKD, Zhou et al., arXiv 2412.08939, in part"
    weights = (0.1, 1.0)

    def helper(self, student: Student, map_channels: Sequence[int]) -> nn.Module:
        import torch

        earlier = copy.deepcopy(student).requires_grad_(False)
        earlier.register_buffer("age", torch.zeros((), dtype=torch.long))
        return earlier

    def loss(self, step: Step) -> Tensor:
        import torch

        earlier, degraded, teacher = step.helper, step.batch.degraded, step.batch.teacher_output
        assert earlier is not None and teacher is not None
        with torch.no_grad():
            asked = [degraded, *(noisy(degraded) for _ in range(NOISY))]
            negatives = [stages_of(earlier(image)) for image in asked]
        term = contrast(stages_of(step.restoration.output), stages_of(teacher), negatives)
        follow(earlier, step.student)
        return to_truth(step) + to_teacher(step) + step.weight * term


def noisy(degraded: Tensor) -> Tensor:
    """The images [N, C, H, W] with Gaussian noise, each of another strength, half of them the same on all channels."""
    import torch

    count = (len(degraded), 1, 1, 1)
    strength = torch.empty(count, device=degraded.device).uniform_(*NOISE)
    grey = torch.rand(count, device=degraded.device) < 0.5
    noise = torch.randn_like(degraded)
    return (degraded + strength * torch.where(grey, noise[:, :1], noise)).clamp(0, 1)


def follow(earlier: nn.Module, student: nn.Module) -> None:
    """Every so many calls, move the earlier student's weights to the student's, up to the share that it keeps."""
    import torch

    age = earlier.get_buffer("age")
    age += 1
    if int(age) % FOLLOW_EVERY:
        return
    with torch.no_grad():
        for own, new in zip(earlier.parameters(), student.parameters(), strict=True):
            own.lerp_(new, 1 - KEPT)
