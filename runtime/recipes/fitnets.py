"""Outputs and features: a 1x1 adaptor from the student's feature map to the tapped one, raw MSE."""

from __future__ import annotations

from typing import TYPE_CHECKING

from kdguard.runtime.recipes.base import Batch, Recipe

if TYPE_CHECKING:
    from torch import Tensor, nn

FEATURE_WEIGHT = 1.0


class FitNets(Recipe):
    """L1(S, T) + w MSE(A F_S, F_T), A a 1x1 convolution trained along."""

    name = "fitnets"
    tier = "T1"
    source = "Romero et al., arXiv 1412.6550"
    taps = True

    def adaptor(self, student_channels: int, teacher_channels: int) -> nn.Module:
        from torch import nn

        return nn.Conv2d(student_channels, teacher_channels, 1)

    def loss(self, output: Tensor, features: Tensor, batch: Batch, adaptor: nn.Module | None) -> Tensor:
        from torch.nn.functional import interpolate, mse_loss

        assert batch.teacher_output is not None and batch.teacher_features is not None
        assert adaptor is not None
        matched = adaptor(features)
        if matched.shape[-2:] != batch.teacher_features.shape[-2:]:
            matched = interpolate(matched, size=batch.teacher_features.shape[-2:], mode="bilinear", align_corners=False)
        output_term = (output - batch.teacher_output).abs().mean()
        return output_term + FEATURE_WEIGHT * mse_loss(matched, batch.teacher_features)
