"""What the harness expects of a student."""

from __future__ import annotations

from abc import ABC, abstractmethod

from torch import Tensor, nn


class Student(nn.Module, ABC):
    """Restores [N, C, H, W] in [0, 1] and shows one feature map to recipes that compare features.

    Attributes:
        feature_channels: channels of the feature map.
    """

    feature_channels: int

    @abstractmethod
    def restore(self, degraded: Tensor) -> tuple[Tensor, Tensor]:
        """The restored image [N, C, H * scale, W * scale] and the feature map [N, F, H, W]."""

    def forward(self, degraded: Tensor) -> Tensor:
        return self.restore(degraded)[0]
