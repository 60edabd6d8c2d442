"""What docs/key-gate.md shows of its two benchmarks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from table_text import between, number, table

Row = Mapping[str, Any]


def attacks_table(rows: Sequence[Row]) -> str:
    lines = [[row["attack"], f"2^{number(row['bits'], 0)}", _detail(row)] for row in rows]
    return table(["attack", "operations, estimated", ""], lines)


def _detail(row: Row) -> str:
    if "block" in row:
        return f"block size {row['block']} of {1025 - row['guessed']}, {row['guessed']} bits guessed"
    return f"degree {row['degree']}" if "degree" in row else ""


def costs_text(rows: Sequence[Row]) -> str:
    names = {
        "again": "second session",
        "no_key": "gate",
        "no_key_hint": "gate and hint",
        "no_key_ensemble": "and ensemble",
        "right_key_hint": "gate and hint, right key",
        "right_key_ensemble": "and ensemble, right key",
    }
    lines = [
        [
            row["task"],
            f"{number(row['ungated_ms'], 0)} ms",
            *(number(row["ratios"][name], 4) for name in names),
            f"{row['layers_driven']} of {row['layers']}",
        ]
        for row in rows
    ]
    distances = [[row["task"], *(f"{row[f'from_clean_{key}_key']:.1e}" for key in ("without", "with"))] for row in rows]
    ensemble = max(row["ensemble_from_one_by_one"] for row in rows)
    equal = sum(row["bit_equal_without_key"] for row in rows)
    added = between([row[name] / 1000 for row in rows for name in ("bytes_added", "bytes_added_ensemble")], 0)
    shares = [row["gate_alone_us"] / row["ungated_ms"] / 10 for row in rows]
    alone, load = number(rows[0]["gate_alone_us"], 0), number(rows[0]["load_average"], 1)
    return (
        f"Published teachers, hardened at the defaults, a gate for 64 holders: {added} kB more; without key {equal} of "
        f"{len(rows)} answer bit for bit as before. The gate alone takes {alone} microseconds, at most "
        f"{number(max(shares), 3)} % of the time of these models. Times as ratios to the ungated model, medians of "
        f"rounds in turns on onnxruntime's CPU provider, while other work made a load average of {load}; how far the "
        "second session of the ungated model lies from 1 is what such a ratio cannot tell.\n\n"
        + table(["task", "ungated", *names.values(), "layers driven"], lines)
        + "\n\nLargest distance of an output value from the clean teacher's. Where a compensated layer holds, a right "
        "key changes the output by rounding only:\n\n"
        + table(["task", "without key", "with a right key"], distances)
        + f"\n\nEnsemble and spread differ from those of four views asked one by one by {ensemble:.0e} at most."
    )
