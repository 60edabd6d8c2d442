"""What `make gpu-check` measured, for docs/native.md."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from table_text import number, table

GOAL_OVER_COPY, GOAL_UNDER_SVD = 2.0, 50


def gpu_table(rows: Sequence[dict[str, Any]]) -> str:
    """Milliseconds and ratios to a copy, and what was reached of the goals."""
    (report,) = rows
    copies = [timing for timing in report["timings"] if timing["timing"] == "device-copy"]
    lines = []
    for timing in copies:
        taken, over = timing["milliseconds"], timing["ratios"]
        works = ("op", "op with change", "gram", "restore")
        cells = [f"{number(taken[work], 2)} ms, {number(over[f'{work} / copy'], 1)}" for work in works]
        lines.append([timing["what"].split(", ")[-1], f"{number(taken['copy'], 2)} ms", *cells])
    (svd,) = (timing["ratios"] for timing in report["timings"] if timing["timing"] == "torch-svd")
    faster = {name: 1 / svd[f"op / torch.{name}"] for name in ("linalg.svd", "svd_lowrank")}
    worst = max(timing["ratios"]["op / copy"] for timing in copies)
    checks = [check for check in report["checks"] if check["state"] != "skipped"]
    passed = sum(check["state"] == "passed" for check in checks)
    gpu = report["environment"]["gpu"]
    copied = "reached" if worst <= GOAL_OVER_COPY else "missed"
    decomposed = "reached" if faster["linalg.svd"] >= GOAL_UNDER_SVD else "missed"
    copies_taken, times_svd, times_lowrank = (number(worst, 1), *(f"{value:.0f}" for value in faster.values()))
    text = (
        f"{gpu}; {passed} of {len(checks)} checks passed. Figures behind commas are ratios to the copy. The op takes "
        f"at most {copies_taken} copies (goal {GOAL_OVER_COPY:g}: {copied}) and is {times_svd} times as fast as "
        f"torch.linalg.svd with the same change and {times_lowrank} times as fast as torch.svd_lowrank "
        f"(goal {GOAL_UNDER_SVD}: {decomposed})."
    )
    return table(["map", "copy", "op", "op with its change", "Gram matrix alone", "restorer"], lines) + f"\n\n{text}"
