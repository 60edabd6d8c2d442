"""Tables and numbers as the documents write them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from kdguard.runtime import wording


def number(value: float | None, digits: int = 2) -> str:
    """Fixed digits, and no minus before a zero; `-` for None."""
    return "-" if value is None else wording.number(value, digits)


def table(headings: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [headings, ["---"] * len(headings), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def between(values: Sequence[float], digits: int = 2) -> str:
    """`0.62 to 0.98`, or one figure where both are the same."""
    low, high = number(min(values), digits), number(max(values), digits)
    return low if low == high else f"{low} to {high}"
