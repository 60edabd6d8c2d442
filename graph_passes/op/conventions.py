"""What all implementations of the op agree on, free of packages, so that a bare Python can check kernels by it."""

from __future__ import annotations

from collections.abc import Sequence
from enum import IntEnum
from typing import Protocol

TAIL_GROUPS = 4
"""Keyed projections of the tail that decide one component's sign."""
UNDO_SHARE = 2.0**-13
"""An error below this share of a value is rounded away in fp16 (11 bits), and in bf16 (8 bits)."""


class Modulation(IntEnum):
    """How the factor on a singular component varies over positions."""

    NONE = 0
    PATTERN = 1
    TAIL_SIGN = 2


class OpAttributes(Protocol):
    """What an implementation reads of `SvdPerturbAttributes`, which says what each of these is and may be."""

    @property
    def rank(self) -> int: ...
    @property
    def gain(self) -> float: ...
    @property
    def centred(self) -> bool: ...
    @property
    def adaptive(self) -> float: ...
    @property
    def modulation(self) -> int: ...
    @property
    def pattern(self) -> Sequence[float]: ...
    @property
    def coherence(self) -> float: ...
    @property
    def stride(self) -> int: ...
