"""A student that trusts the teacher at an auxiliary head only."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from kdguard.runtime.recipes.base import TRIED_WEIGHTS, Recipe, Step
from kdguard.runtime.recipes.terms import adaptor, l1, resized_like, to_truth

if TYPE_CHECKING:
    from torch import Tensor, nn

    from kdguard.runtime.students.base import Student


class Skeptical(Recipe):
    """L1(S, GT) + L1(S, S_a) + L1(S_a, T) + w MSE(A F_a, F_T), S_a an auxiliary head on the shallow map F_a.

    The main head sees ground truth and, without a gradient to it, the auxiliary head's image; the
    teacher only reaches the shallow half of the student. S_a is not part of the student that is kept.
    """

    name = "skeptical"
    tier = "T1s"
    source = "Kundu et al., NeurIPS 2021"
    taps = 1
    ground_truth = True
    weights = TRIED_WEIGHTS

    def helper(self, student: Student, map_channels: Sequence[int]) -> nn.Module:
        from torch import nn

        from kdguard.runtime.students.base import image_head

        shallow = student.map_channels[0]
        return nn.ModuleDict(
            {"image": image_head(shallow, student.channels, student.scale), "map": adaptor(shallow, map_channels[-1])}
        )

    def loss(self, step: Step) -> Tensor:
        from torch.nn import ModuleDict
        from torch.nn.functional import mse_loss

        assert isinstance(step.helper, ModuleDict) and step.batch.teacher_output is not None
        shallow, wanted = step.restoration.maps[0], step.batch.teacher_maps[-1]
        auxiliary = step.student.enlarged(step.batch.degraded) + step.helper["image"](shallow)
        feature_term = mse_loss(resized_like(step.helper["map"](shallow), wanted), wanted)
        main = to_truth(step) + l1(step.restoration.output, auxiliary.detach())
        return main + l1(auxiliary, step.batch.teacher_output) + step.weight * feature_term
