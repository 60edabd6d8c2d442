"""Looking things up by the names that people type."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeVar

from kdguard.export.errors import UserError

Thing = TypeVar("Thing")


def look_up(table: Mapping[str, Thing], name: str, kind: str) -> Thing:
    """The entry of that name.

    Args:
        kind: of thing, for the message.

    Raises:
        UserError: there is none; suggests the nearest name, or lists all.
    """
    from difflib import get_close_matches

    if name not in table:
        near = get_close_matches(name, table, n=1)
        hint = f"did you mean {near[0]!r}?" if near else f"choose one of {', '.join(table)}"
        raise UserError(f"unknown {kind} {name!r}: {hint}")
    return table[name]
