"""What the harness expects of a student."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass

from torch import Tensor, nn
from torch.nn.functional import interpolate


@dataclass(frozen=True)
class Restoration:
    """A student's answer.

    Attributes:
        output: [N, C, H * scale, W * scale].
        maps: feature maps from shallow to deep, [N, F_i, H_i, W_i]; recipes that compare one map
            take the last.
    """

    output: Tensor
    maps: tuple[Tensor, ...]


class Student(nn.Module, ABC):
    """Restores [N, C, H, W] in [0, 1] and shows its feature maps to recipes that compare features.

    Attributes:
        channels: of the images.
        scale: output size over input size.
        map_channels: channels of each of the maps, from shallow to deep.
    """

    channels: int
    scale: int
    map_channels: tuple[int, ...]

    @abstractmethod
    def restore(self, degraded: Tensor) -> Restoration:
        """The restored image and the feature maps."""

    def forward(self, degraded: Tensor) -> Tensor:
        return self.restore(degraded).output

    def enlarged(self, degraded: Tensor) -> Tensor:
        """The degraded image at the output's size: what every student adds its correction to."""
        if self.scale == 1:
            return degraded
        return interpolate(degraded, scale_factor=self.scale, mode="bilinear", align_corners=False)


def image_head(width: int, channels: int, scale: int) -> nn.Module:
    """A convolution from a feature map at the input's size to an image at the output's."""
    convolution = nn.Conv2d(width, channels * scale * scale, 3, padding=1)
    return nn.Sequential(convolution, nn.PixelShuffle(scale)) if scale > 1 else convolution
