"""Looking things up by the names that people type."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
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
    if name not in table:
        hint = did_you_mean(table, name) or f"choose one of {', '.join(table)}"
        raise UserError(f"unknown {kind} {name!r}: {hint}")
    return table[name]


def did_you_mean(names: Iterable[str], name: str) -> str:
    """A question with the name nearest to a misspelt one; empty where none is near."""
    from difflib import get_close_matches

    near = get_close_matches(name, list(names), n=1)
    return f"did you mean {near[0]!r}?" if near else ""
