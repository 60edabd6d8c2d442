"""Loss terms that several recipes share."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor, nn

    from kdguard.runtime.recipes.base import Step


def l1(first: Tensor, second: Tensor) -> Tensor:
    """Mean absolute difference."""
    return (first - second).abs().mean()


def to_teacher(step: Step) -> Tensor:
    """L1(S, T)."""
    assert step.batch.teacher_output is not None
    return l1(step.restoration.output, step.batch.teacher_output)


def to_truth(step: Step) -> Tensor:
    """L1(S, GT) over the tiles that the attacker owns ground truth for."""
    owned = step.batch.owned
    if not owned.any():
        return step.restoration.output.sum() * 0
    return l1(step.restoration.output[owned], step.batch.clean[owned])


def adaptor(student_channels: int, teacher_channels: int) -> nn.Module:
    """A 1x1 convolution from the student's map to the teacher's."""
    from torch import nn

    return nn.Conv2d(student_channels, teacher_channels, 1)


def resized_like(values: Tensor, reference: Tensor) -> Tensor:
    """`values` at the reference's height and width."""
    from torch.nn.functional import interpolate

    size = reference.shape[-2:]
    if values.shape[-2:] == size:
        return values
    return interpolate(values, size=size, mode="bilinear", align_corners=False)


def feature_mse(step: Step) -> Tensor:
    """MSE(A F_S, F_T) of the last maps, A the helper."""
    from torch.nn.functional import mse_loss

    assert step.helper is not None
    wanted = step.batch.teacher_maps[-1]
    return mse_loss(resized_like(step.helper(step.restoration.maps[-1]), wanted), wanted)
