"""A small U-Net (Ronneberger et al., MICCAI 2015), the other shape that restoration students have."""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate, pad

from kdguard.runtime.students.base import Restoration, Student, image_head

LEVELS = 2
"""Halvings; every image is padded to a multiple of 2 ** LEVELS."""


class UNet(Student):
    """Two halvings down, two doublings up, skip connections; adds the (upsampled) input at the end.

    The maps are the first and the last level's, both at the input's size.
    """

    def __init__(self, width: int, blocks: int, channels: int, scale: int) -> None:
        super().__init__()
        self.channels, self.scale = channels, scale
        self.map_channels = (width, width)
        widths = [width * 2**level for level in range(LEVELS + 1)]
        self.head = nn.Conv2d(channels, width, 3, padding=1)
        self.down = nn.ModuleList(nn.Conv2d(narrow, wide, 4, stride=2, padding=1) for narrow, wide in pairwise(widths))
        self.bottom = nn.ModuleList(nn.Conv2d(widths[-1], widths[-1], 3, padding=1) for _ in range(blocks))
        self.up = nn.ModuleList(nn.Conv2d(wide + narrow, narrow, 3, padding=1) for narrow, wide in pairwise(widths))
        self.tail = image_head(width, channels, scale)

    def restore(self, degraded: Tensor) -> Restoration:
        height, width = degraded.shape[-2:]
        multiple = 2**LEVELS
        # Replication takes any image; reflection refuses those smaller than the padding.
        padded = pad(degraded, (0, -width % multiple, 0, -height % multiple), mode="replicate")
        levels = [torch.relu(self.head(padded))]
        for down in self.down:
            levels.append(torch.relu(down(levels[-1])))
        features = levels[-1]
        for block in self.bottom:
            features = features + torch.relu(block(features))
        for up, skip in zip(reversed(self.up), reversed(levels[:-1]), strict=True):
            larger = interpolate(features, scale_factor=2, mode="bilinear", align_corners=False)
            features = torch.relu(up(torch.cat([larger, skip], 1)))
        shallow, deep = (values[..., :height, :width] for values in (levels[0], features))
        return Restoration(self.enlarged(degraded) + self.tail(deep), (shallow, deep))
