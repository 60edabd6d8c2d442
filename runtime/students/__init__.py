"""The networks an attacker trains, one family per file."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from kdguard.export.errors import UserError

if TYPE_CHECKING:
    from kdguard.runtime.students.base import Student


def _residual_cnn(width: int, blocks: int, channels: int, scale: int) -> Student:
    from kdguard.runtime.students.residual_cnn import ResidualCnn

    return ResidualCnn(width, blocks, channels, scale)


FAMILIES: dict[str, Callable[[int, int, int, int], Student]] = {"residual-cnn": _residual_cnn}


def build_student(family: str, width: int, blocks: int, channels: int, scale: int) -> Student:
    """A fresh student; its weights come from torch's current random state.

    Raises:
        UserError: unknown family.
    """
    if family not in FAMILIES:
        raise UserError(f"unknown student family {family!r}: choose one of {', '.join(FAMILIES)}")
    return FAMILIES[family](width, blocks, channels, scale)
