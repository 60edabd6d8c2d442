"""What docs/key-gate.md shows of the example service's response times."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from table_text import number, table

Row = Mapping[str, Any]


def timing_table(rows: Sequence[Row]) -> str:
    """Per caller the median, and the difference to an unknown key, on each path."""
    headings = ["caller", *(part for row in rows for part in (f"`{row['path']}`", "against unknown", "p"))]
    columns = zip(*(row["callers"] for row in rows), strict=True)
    lines = [[entries[0]["caller"], *(part for entry in entries for part in _cells(entry))] for entries in columns]
    tests = " and ".join(f"p = {number(row['friedman_p_of_well_formed'], 3)} on `{row['path']}`" for row in rows)
    return f"{table(headings, lines)}\n\nFriedman test of the well-formed keys without the right one: {tests}."


def _cells(entry: Row) -> list[str]:
    median = f"{number(entry['median_ms'], 3)} ms"
    if "difference_us" not in entry:
        return [median, "-", "-"]
    apart, p = entry["difference_us"], entry["p"]
    shown = f"{number(apart['median'], 0)} ({number(apart['low'], 0)} to {number(apart['high'], 0)}) us"
    return [median, shown, "< 0.001" if p < 0.001 else number(p, 3)]
