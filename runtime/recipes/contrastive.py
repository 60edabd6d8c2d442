"""Contrastive distillation: near the teacher and far from the degraded image, in the eyes of a frozen network."""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING

from kdguard.runtime.recipes.base import Recipe, Step
from kdguard.runtime.recipes.terms import l1, to_teacher, to_truth

if TYPE_CHECKING:
    from torch import Tensor, nn

CONTRASTIVE_WEIGHT = 0.1
"""The paper weighs its term, of ratios near 1 in sum, against L1 on values up to 255."""

STAGE_WEIGHTS = (1 / 4, 1 / 2, 1.0)
"""Deeper stages count more, by factors of two, as in the paper."""


class Contrastive(Recipe):
    """L1(S, GT) + L1(S, T) + w sum_i w_i d(phi_i T, phi_i S) / d(phi_i N, phi_i S), d the L1 distance.

    N, the negative, is the degraded image at the output's size. phi is a frozen network of ours with
    seeded random weights, since pretrained ones come with terms and downloads of their own; random
    convolutions rank image differences too.
    """

    name = "contrastive"
    tier = "T0"
    source = "CSD, Wang et al., arXiv 2105.11683"
    ground_truth = True

    def loss(self, step: Step) -> Tensor:
        teacher = step.batch.teacher_output
        assert teacher is not None
        output = step.restoration.output
        stages = frozen_stages(output.shape[1]).to(output.device)
        negative = step.student.enlarged(step.batch.degraded)
        term = output.new_zeros(())
        for stage, weight in zip(stages, STAGE_WEIGHTS, strict=True):
            output, teacher, negative = stage(output), stage(teacher), stage(negative)
            term = term + weight * l1(output, teacher) / (l1(output, negative) + 1e-7)
        return to_truth(step) + to_teacher(step) + CONTRASTIVE_WEIGHT * term


@lru_cache(maxsize=2)
def frozen_stages(channels: int) -> nn.ModuleList:
    """Three convolutions with ReLU, each but the first at half the size of the one before; orthogonal weights."""
    import torch
    from torch import nn

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        stages = nn.ModuleList()
        for index, width in enumerate((16, 32, 64)):
            convolution = nn.Conv2d(channels, width, 3, stride=1 + (index > 0), padding=1, bias=False)
            nn.init.orthogonal_(convolution.weight, gain=2**0.5)
            stages.append(nn.Sequential(convolution, nn.ReLU()))
            channels = width
    return stages.requires_grad_(False)
