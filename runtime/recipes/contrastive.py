"""Contrastive distillation: near the teacher's answer, far from degraded images, in the eyes of a frozen network."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import TYPE_CHECKING, ClassVar

from kdguard.runtime.recipes.base import Recipe, Step
from kdguard.runtime.recipes.terms import l1, to_truth

if TYPE_CHECKING:
    from torch import Tensor, nn

NEGATIVES = 10
"""Most negatives per image, as in the paper."""

STAGE_WIDTHS = (16, 32, 64, 64, 64)
STAGE_WEIGHTS = (1 / 32, 1 / 16, 1 / 8, 1 / 4, 1.0)
"""Of the five stages of VGG19 in the paper's code; deeper ones count more."""


class Contrastive(Recipe):
    """L1(S, GT) + w sum_i w_i d(phi_i S, phi_i T) / sum_k d(phi_i S, phi_i N_k), d the L1 distance; w by validation.

    N_k, the negatives, are the other degraded images of the batch at the output's size (a batch of one
    has only its own). phi is a frozen network of ours with seeded random weights where the paper has
    VGG19, whose weights come with terms and a download of their own.
    """

    name = "contrastive"
    tier = "T0"
    source = "CSD, Wang et al., arXiv 2105.11683, adapted"
    ground_truth = True
    # The first is the paper's: 200, against L1 on values up to 255.
    weights: ClassVar[tuple[float, ...]] = (200 / 255, 0.1)

    def loss(self, step: Step) -> Tensor:
        output, teacher = step.restoration.output, step.batch.teacher_output
        assert teacher is not None
        degraded = stages_of(step.student.enlarged(step.batch.degraded))
        shifts = range(1, min(len(output), NEGATIVES + 1)) or [0]
        negatives = [[stage.roll(shift, 0) for stage in degraded] for shift in shifts]
        return to_truth(step) + step.weight * contrast(stages_of(output), stages_of(teacher), negatives)


def contrast(found: Sequence[Tensor], wanted: Sequence[Tensor], negatives: Sequence[Sequence[Tensor]]) -> Tensor:
    """sum_i w_i d(found_i, wanted_i) / sum_k d(found_i, negative_k,i), stage by stage.

    Args:
        found: one tensor [N, F_i, H_i, W_i] per stage, as `stages_of` gives them; so is every other entry.
    """
    term = found[0].new_zeros(())
    for index, weight in enumerate(STAGE_WEIGHTS):
        away = [l1(found[index], negative[index]) for negative in negatives]
        term = term + weight * l1(found[index], wanted[index]) / (sum(away, term.new_zeros(())) + 1e-7)
    return term


def stages_of(images: Tensor) -> list[Tensor]:
    """What each stage of the frozen network makes of images [N, C, H, W]."""
    found = []
    for stage in frozen_stages(images.shape[1]).to(images.device):
        images = stage(images)
        found.append(images)
    return found


@lru_cache(maxsize=2)
def frozen_stages(channels: int) -> nn.ModuleList:
    """Five convolutions with ReLU, each but the first at half the size of the one before; orthogonal weights."""
    import torch
    from torch import nn

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        stages = nn.ModuleList()
        for index, width in enumerate(STAGE_WIDTHS):
            convolution = nn.Conv2d(channels, width, 3, stride=1 + (index > 0), padding=1, bias=False)
            nn.init.orthogonal_(convolution.weight, gain=2**0.5)
            stages.append(nn.Sequential(convolution, nn.ReLU()))
            channels = width
    return stages.requires_grad_(False)
