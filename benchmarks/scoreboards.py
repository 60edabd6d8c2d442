"""What docs/threat-model.md shows of benchmarks/results/red_team."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from table_text import number, table

from kdguard.export.tasks import TASKS
from kdguard.runtime.wording import plus_minus

Row = dict[str, Any]
OURS = "kdguard harden"
SUBJECTS = ("quickstart", *TASKS)
COMPARED = ("output-l1", "fitnets", "fitnets-standardised", "fakd")
"""Recipes that every defence was attacked with."""


def boards(rows: Sequence[Row], defence: str = OURS) -> dict[str, Row]:
    """Per subject the scoreboard with the most recipes."""
    found: dict[str, Row] = {}
    for row in sorted(rows, key=lambda row: len(row["scoreboard"]["summary"])):
        if row["defence"] == defence:
            found[row["subject"]] = row["scoreboard"]
    return {name: found[name] for name in SUBJECTS if name in found}


def best_responses(rows: Sequence[Row]) -> str:
    headings = [
        "teacher",
        "best from clean",
        "best from hardened",
        "drop",
        "recipes",
        "teacher, hardened",
        "with truth: clean less scratch",
        "hardened less scratch",
    ]

    def line(name: str, board: Row) -> list[str]:
        best, left, marks = board["best_response"], board["help_left"], board["landmarks"]
        return [
            name,
            f"{number(best['clean']['psnr'])} dB, `{best['clean']['recipe']}`",
            f"{number(best['hardened']['psnr'])} dB, `{best['hardened']['recipe']}`",
            "the same students" if best["same_students"] else f"{plus_minus(best['drop_db'], best['drop_ci95'])} dB",
            str(len(board["summary"])),
            ", ".join(number(marks[kind]["psnr"]) for kind in ("clean", "hardened")) + " dB",
            f"{plus_minus(left['clean_gain_db'], left['clean_gain_ci95'])} dB",
            f"{plus_minus(left['gain_db'], left['gain_ci95'])} dB, `{left['recipe']}`",
        ]

    return table(headings, (line(name, board) for name, board in boards(rows).items()))


def core_drops(rows: Sequence[Row]) -> str:
    core = ["output-l1", "output+gt", "fitnets", "fitnets-standardised", "fakd", "strip+refit"]

    def line(name: str, board: Row) -> list[str]:
        entries = {entry["recipe"]: entry for entry in board["summary"]}
        drops = [plus_minus(entries[recipe]["drop_db"], entries[recipe]["drop_ci95"]) for recipe in core]
        pooled, bound = (number(entries["output-l1"][field], 3) for field in ("pooled_drop_db", "bound_db"))
        return [name, *drops, f"{pooled} of {bound}"]

    headings = ["teacher", *(f"`{recipe}`" for recipe in core), "`output-l1` pooled, at most"]
    return table(headings, (line(name, board) for name, board in boards(rows).items()))


def every_recipe(rows: Sequence[Row]) -> str:
    """One table per subject on which more than the core ran."""
    parts = []
    for name, board in boards(rows).items():
        if len(board["summary"]) < 10:
            continue
        lines = []
        for entry in board["summary"]:
            compared = entry["tier"] != "control"
            hardened = plus_minus(entry["hardened"]["psnr"], entry["hardened"]["ci95"])
            lines.append(
                [
                    f"`{entry['recipe']}`",
                    entry["tier"],
                    plus_minus(entry["clean"]["psnr"], entry["clean"]["ci95"]),
                    hardened if compared else "",
                    plus_minus(entry["drop_db"], entry["drop_ci95"]) if compared else "",
                    f"{number(entry['ssim_drop_pct'], 1)} %" if compared else "",
                ]
            )
        headings = ["recipe", "tier", "from clean, dB", "from hardened, dB", "drop, dB", "SSIM drop"]
        missing = "".join(f"\n\nNot run: `{m['recipe']}`, {m['reason']}." for m in board["not_run"])
        parts.append(f"**{name}**\n\n{table(headings, lines)}{missing}")
    return "\n\n".join(parts) or "Not recorded yet: `python benchmarks/red_team.py --recipes all quickstart`."


def other_defences(rows: Sequence[Row]) -> str:
    """Ours among them, on subjects where others were attacked too."""
    others = {row["subject"] for row in rows if row["defence"] != OURS}
    lines = []
    for defence in dict.fromkeys([OURS, *(row["defence"] for row in rows)]):
        for name, board in boards(rows, defence).items():
            if name not in others:
                continue
            entries = {entry["recipe"]: entry for entry in board["summary"]}
            drops = [plus_minus(entries[r]["drop_db"], entries[r]["drop_ci95"]) for r in COMPARED]
            ssim = max(entries[r]["ssim_drop_pct"] for r in COMPARED)
            lines.append([name, defence, *drops, f"{number(ssim, 1)} %"])
    lines.sort(key=lambda line: SUBJECTS.index(line[0]))
    headings = ["teacher", "defence", *(f"`{recipe}`" for recipe in COMPARED), "largest SSIM drop"]
    return table(headings, lines) if lines else "Not recorded yet: `python benchmarks/red_team.py --defence NAME`."
