"""A plain residual CNN in the manner of EDSR (Lim et al., CVPRW 2017), small on purpose."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate

from kdguard.runtime.students.base import Student


class ResidualCnn(Student):
    """Head, residual blocks of one convolution each, tail; adds the (upsampled) input at the end.

    The feature map is the trunk's output, the last thing before the tail.
    """

    def __init__(self, width: int, blocks: int, channels: int, scale: int) -> None:
        super().__init__()
        self.scale = scale
        self.feature_channels = width
        self.head = nn.Conv2d(channels, width, 3, padding=1)
        self.blocks = nn.ModuleList(nn.Conv2d(width, width, 3, padding=1) for _ in range(blocks))
        self.tail = nn.Conv2d(width, channels * scale * scale, 3, padding=1)
        self.shuffle = nn.PixelShuffle(scale) if scale > 1 else nn.Identity()

    def restore(self, degraded: Tensor) -> tuple[Tensor, Tensor]:
        features = self.head(degraded)
        for block in self.blocks:
            features = features + torch.relu(block(features))
        skip = degraded
        if self.scale > 1:
            skip = interpolate(degraded, scale_factor=self.scale, mode="bilinear", align_corners=False)
        return skip + self.shuffle(self.tail(features)), features
