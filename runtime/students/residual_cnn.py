"""A plain residual CNN in the manner of EDSR (Lim et al., CVPRW 2017), small on purpose."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from kdguard.runtime.students.base import Restoration, Student, image_head


class ResidualCnn(Student):
    """Head, residual blocks of one convolution each, tail; adds the (upsampled) input at the end.

    The maps are those after a third and after all of the blocks, both at the input's size.
    """

    def __init__(self, width: int, blocks: int, channels: int, scale: int) -> None:
        super().__init__()
        self.channels, self.scale = channels, scale
        self.map_channels = (width, width)
        self.head = nn.Conv2d(channels, width, 3, padding=1)
        self.blocks = nn.ModuleList(nn.Conv2d(width, width, 3, padding=1) for _ in range(blocks))
        self.tail = image_head(width, channels, scale)

    def restore(self, degraded: Tensor) -> Restoration:
        features = shallow = self.head(degraded)
        for index, block in enumerate(self.blocks):
            features = features + torch.relu(block(features))
            if index < max(1, len(self.blocks) // 3):
                shallow = features
        return Restoration(self.enlarged(degraded) + self.tail(features), (shallow, features))
