"""The quickstart's teacher: an EDSR-like residual network for deraining (Lim et al., CVPRW 2017)."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class ResidualBlock(nn.Module):
    """Conv, ReLU, Conv and a skip, without normalisation."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(width, width, 3, padding=1)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.conv2(torch.relu(self.conv1(x)))


class DerainEdsr(nn.Module):
    """[N, 3, H, W] rainy in [0, 1] to [N, 3, H, W] clean; predicts the rain as a residual."""

    def __init__(self, width: int = 32, blocks: int = 5) -> None:
        super().__init__()
        self.head = nn.Conv2d(3, width, 3, padding=1)
        self.body = nn.ModuleList(ResidualBlock(width) for _ in range(blocks))
        self.tail = nn.Conv2d(width, 3, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        features = self.head(x)
        for block in self.body:
            features = block(features)
        return x + self.tail(features)


def derain_edsr() -> nn.Module:
    """The architecture whose weights are in teacher.safetensors."""
    return DerainEdsr()
