"""The networks an attacker trains, one family per file, each in three sizes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, NamedTuple

if TYPE_CHECKING:
    from kdguard.runtime.students.base import Student

Family = Literal["residual-cnn", "unet"]
Size = Literal["small", "medium", "large"]


class Shape(NamedTuple):
    """Width of the widest map at the input's size, and number of blocks."""

    width: int
    blocks: int


SHAPES: dict[Family, dict[Size, Shape]] = {
    "residual-cnn": {"small": Shape(16, 4), "medium": Shape(32, 8), "large": Shape(64, 16)},
    "unet": {"small": Shape(8, 1), "medium": Shape(16, 2), "large": Shape(32, 4)},
}
"""About 10, 75 and 600 thousand parameters."""


def build_student(family: Family, size: Size, channels: int, scale: int) -> Student:
    """A fresh student; its weights come from torch's current random state."""
    from kdguard.runtime.students.residual_cnn import ResidualCnn
    from kdguard.runtime.students.unet import UNet

    families: dict[Family, type[ResidualCnn] | type[UNet]] = {"residual-cnn": ResidualCnn, "unet": UNet}
    return families[family](*SHAPES[family][size], channels, scale)
