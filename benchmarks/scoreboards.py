"""What docs/threat-model.md shows of benchmarks/results/red_team, prior_defences and plateau."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from red_team import FEATURES, STANDARD, TRAINING
from table_text import number, table

from kdguard.export.tasks import TASKS
from kdguard.runtime.wording import plus_minus

Row = dict[str, Any]
OURS = "kdguard harden"
SUBJECTS = ("quickstart", *TASKS)
ASVP = "asvp-paired"
GOAL_DB, GOAL_SSIM_PCT = 4.0, 60.0
"""What arXiv 2510.08925 reports a student to lose."""


def boards(rows: Sequence[Row], defence: str = OURS, tuned: bool = True) -> dict[str, Row]:
    """Per subject the scoreboard with the most recipes, by attackers who tune or by those who do not."""
    found: dict[str, Row] = {}
    for row in sorted(rows, key=lambda row: len(row["scoreboard"]["summary"])):
        if (row["defence"], row["tuned"], row["training"]["steps"]) == (defence, tuned, TRAINING.steps):
            found[row["subject"]] = row["scoreboard"]
    return {name: found[name] for name in SUBJECTS if name in found}


def with_longer_runs(rows: Sequence[Row]) -> list[tuple[str, Row]]:
    """Our boards by name, those that were recorded with more steps behind the others, and saying so."""
    longer = [
        (f"{row['subject']}, {row['training']['steps']} steps", row["scoreboard"])
        for row in rows
        if row["training"]["steps"] > TRAINING.steps
    ]
    return [*boards(rows).items(), *longer]


def entries_of(board: Row) -> dict[str, Row]:
    return {entry["recipe"]: entry for entry in board["summary"]}


def _diverged(entry: Row) -> int:
    """Students of either side."""
    return int(entry["clean"]["diverged"] + entry["hardened"]["diverged"])


def drop_of(entry: Row) -> str:
    """With its interval; the count of diverged students where there are any."""
    diverged = _diverged(entry)
    return f"{diverged} diverged" if diverged else plus_minus(entry["drop_db"], entry["drop_ci95"])


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
        if best is None or left is None:
            return [name, *["-"] * (len(headings) - 1)]
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

    return table(headings, (line(name, board) for name, board in with_longer_runs(rows)))


def core_drops(rows: Sequence[Row]) -> str:
    core = ["output-l1", "output+gt", "fitnets", "fitnets-standardised", "fakd", "strip+refit"]

    def line(name: str, board: Row) -> list[str]:
        entries = entries_of(board)
        drops = [drop_of(entries[recipe]) for recipe in core]
        pooled, bound = (number(entries["output-l1"][field], 3) for field in ("pooled_drop_db", "bound_db"))
        return [name, *drops, f"{pooled} of {bound}"]

    headings = ["teacher", *(f"`{recipe}`" for recipe in core), "`output-l1` pooled, at most"]
    return table(headings, (line(name, board) for name, board in with_longer_runs(rows)))


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
                    drop_of(entry) if compared else "",
                    f"{number(entry['ssim_drop_pct'], 1)} %" if compared else "",
                ]
            )
        headings = ["recipe", "tier", "from clean, dB", "from hardened, dB", "drop, dB", "SSIM drop"]
        missing = "".join(f"\n\nNot run: `{m['recipe']}`, {m['reason']}." for m in board["not_run"])
        parts.append(f"**{name}**\n\n{table(headings, lines)}{missing}")
    return "\n\n".join(parts) or "Not recorded yet: `python benchmarks/red_team.py --recipes all quickstart`."


def other_defences(rows: Sequence[Row]) -> str:
    """Ours among them, on subjects where others were attacked too."""
    others = {row["subject"] for row in rows if row["defence"] != OURS and row["tuned"]}
    lines = []
    for defence in dict.fromkeys([OURS, *(row["defence"] for row in rows)]):
        for name, board in boards(rows, defence).items():
            if name not in others:
                continue
            entries = entries_of(board)
            lines.append([name, defence, *(_drop_and_ssim(entries.get(recipe)) for recipe in FEATURES)])
    lines.sort(key=lambda line: SUBJECTS.index(line[0]))
    headings = ["teacher", "defence", *(f"`{recipe}`, dB, SSIM" for recipe in FEATURES)]
    return table(headings, lines) if lines else "Not recorded yet: `python benchmarks/red_team.py --defence NAME`."


def headline(rows: Sequence[Row]) -> str:
    """What attackers lose who do not tune: feature recipes as papers run them, from plain ASVP and from ours."""
    lines = []
    for defence in (ASVP, OURS):
        for name, board in boards(rows, defence, tuned=False).items():
            entries, marks = entries_of(board), board["landmarks"]
            loss = number(marks["clean"]["psnr"] - marks["hardened"]["psnr"], 3)
            lines.append([name, defence, loss, *(_drop_and_ssim(entries.get(recipe)) for recipe in STANDARD)])
    lines.sort(key=lambda line: SUBJECTS.index(line[0]))
    headings = ["teacher", "defence", "teacher loses, dB", *(f"`{recipe}`, dB, SSIM" for recipe in STANDARD)]
    return table(headings, lines)


def _drop_and_ssim(entry: Row | None) -> str:
    if entry is None:
        return "not run"
    return drop_of(entry) if _diverged(entry) else f"{drop_of(entry)}, {number(entry['ssim_drop_pct'], 0)} %"


def headline_goal(rows: Sequence[Row]) -> str:
    """On which teachers plain ASVP costs a standard feature recipe what its paper reports."""
    found = boards(rows, ASVP, tuned=False)

    def naming(reached: Callable[[Row], bool]) -> str:
        """Teachers, with the recipes that reached it there."""
        lines = []
        for name, board in found.items():
            sound = [entry for entry in board["summary"] if not _diverged(entry)]
            if recipes := [entry["recipe"] for entry in sound if reached(entry)]:
                lines.append(f"{name} ({', '.join(recipes)})")
        return ", ".join(lines) or "none"

    surely = naming(lambda e: e["drop_db"] - (e["drop_ci95"] or 0) >= GOAL_DB)
    whole = naming(lambda e: e["drop_db"] - (e["drop_ci95"] or 0) >= GOAL_DB and e["ssim_drop_pct"] >= GOAL_SSIM_PCT)
    return (
        f"Of {len(found)} teachers, at least {GOAL_DB:g} dB beyond its interval is lost on {surely}; that and at least "
        f"{GOAL_SSIM_PCT:g} % of SSIM on {whole}."
    )


def strengths(rows: Sequence[Row]) -> str:
    """How strong the budget lets each defence be, and what the teacher loses on test pairs."""
    defences = list(dict.fromkeys(row["defence"] for row in rows))

    def cell(subject: str, defence: str) -> str:
        for row in rows:
            if (row["subject"], row["defence"]) == (subject, defence):
                if row["strength"] is None:
                    return "none holds"
                return f"{row['strength']:.3g}, loses {number(row['test_loss_db'], 3)}"
        return ""

    subjects = [name for name in SUBJECTS if any(row["subject"] == name for row in rows)]
    return table(["teacher", *defences], ([name, *(cell(name, d) for d in defences)] for name in subjects))


def plateau_table(rows: Sequence[Row]) -> str:
    """What longer training brings the controls."""
    headings = ["teacher", "control", "steps", "reach", "twice the steps reach", "and bring"]

    def line(row: Row) -> list[str]:
        scores = [f"{number(score)} dB" for score in row["psnr"]]
        brings = f"{plus_minus(row['gain_db'], row['gain_ci95'])} dB"
        return [row["subject"], f"`{row['recipe']}`", str(row["steps"][0]), *scores, brings]

    return table(headings, map(line, rows))


def plateau_sentence(rows: Sequence[Row]) -> str:
    """From how many steps on twice as many bring the controls nothing that can be told."""
    reached: dict[int, list[str]] = {}
    growing = []
    for subject in dict.fromkeys(row["subject"] for row in rows):
        own = [row for row in rows if row["subject"] == subject]
        longest = max(row["steps"][0] for row in own)
        last = [row for row in own if row["steps"][0] == longest]
        if any(row["gain_db"] > row["gain_ci95"] for row in last):
            growing.append(f"{subject} (they still gain between {longest} and {2 * longest} steps)")
        else:
            reached.setdefault(longest, []).append(subject)
    parts = [f"at {steps} steps on {', '.join(names)}" for steps, names in sorted(reached.items())]
    exceptions = ", ".join(growing) or "none"
    return f"Controls at their plateau, as far as three seeds tell: {'; '.join(parts)}. Not so: {exceptions}."
