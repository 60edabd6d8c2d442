"""GPUs that an engine is for, by compute capability."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

from kdguard.export.errors import UserError

RTX_DEFAULT = ("8.0", "8.6", "8.9", "12.0")
"""What TensorRT-RTX builds for where nothing is asked for, and later ones (its documentation, CPU-only engines)."""
AMPERE, TURING = "8.0", "7.5"


def _order(capability: str) -> tuple[int, ...]:
    return tuple(map(int, capability.split(".")))


def parse_gpus(texts: Iterable[str]) -> list[str]:
    """What `--gpu` says, without repetition, in ascending order.

    Raises:
        UserError: one of them is no compute capability.
    """
    found = set(texts)
    for text in found:
        if not re.fullmatch(r"[1-9]\d?\.\d", text):
            raise UserError(f"--gpu: {text!r} is no compute capability; write MAJOR.MINOR, 8.9 say")
    return sorted(found, key=_order)


def runs_on(capability: str, gpus: Sequence[str], later: bool) -> bool:
    """Whether an engine for these GPUs, and perhaps for all later ones, is for this one."""
    return capability in gpus or (later and _order(capability) > max(map(_order, gpus)))


def in_words(gpus: Sequence[str], later: bool) -> str:
    """`8.6, 8.9 and later`, for messages."""
    return ", ".join(gpus) + (" and later" if later else "")
