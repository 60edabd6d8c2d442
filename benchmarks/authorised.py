"""What docs/authorised.md shows of benchmarks/results/red_team: key holders beside plain distillation and thieves."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from red_team import TRAINING
from scoreboards import ASVP, OURS, SUBJECTS, Row, boards
from table_text import number, table

from kdguard.export.tasks import TASKS
from kdguard.runtime.red_team.interval import interval95
from kdguard.runtime.wording import plus_minus

RECIPE = "authorised"
PLAIN = "output-l1"
GOAL_DB, GOAL_TASKS, THIEF_GOAL_DB = 0.2, 4, -4.0
"""Over plain distillation, mean of teachers; teachers whose interval is above 0; a thief less the key holder."""

Scores = list[float]
Interval = tuple[float, float | None]


def scores_of(board: Row | None, recipe: str, source: str) -> Scores:
    """PSNR of a recipe's students by seed; empty where they were not recorded."""
    rows = [r for r in (board or {"rows": []})["rows"] if (r["recipe"], r["source"]) == (recipe, source)]
    return [row["psnr"] for row in sorted(rows, key=lambda row: row["seed"])]


def holders(rows: Sequence[Row]) -> dict[str, Scores]:
    """Key holders' students by subject, in our order."""
    recorded = (
        row for row in rows if (row["defence"], row["tuned"], row["training"]["steps"]) == (OURS, True, TRAINING.steps)
    )
    found = {row["subject"]: scores for row in recorded if (scores := scores_of(row["scoreboard"], RECIPE, "clean"))}
    return {name: found[name] for name in SUBJECTS if name in found}


def less(first: Scores, second: Scores) -> Interval | None:
    """Mean difference with half the width of its 95 % interval, paired by seed."""
    if len(first) != len(second) or not first:
        return None
    differences = [a - b for a, b in zip(first, second, strict=True)]
    return float(np.mean(differences)), interval95(differences)


def over_plain(rows: Sequence[Row]) -> dict[str, Interval]:
    """By subject, what a key holder's students are better than those of plain distillation."""
    plain = boards(rows)
    gains = {name: less(own, scores_of(plain.get(name), PLAIN, "clean")) for name, own in holders(rows).items()}
    return {name: gain for name, gain in gains.items() if gain is not None}


def holders_table(rows: Sequence[Row]) -> str:
    """Key holders beside whoever distills plainly, without and with ground truth."""
    plain, gains = boards(rows), over_plain(rows)
    lines = []
    for name, own in holders(rows).items():
        board = plain.get(name)
        without, with_truth, alone = (
            scores_of(board, recipe, source)
            for recipe, source in ((PLAIN, "clean"), ("output+gt", "clean"), ("scratch", "none"))
        )
        lines.append(
            [
                name,
                _group(without),
                _group(own),
                _cell(gains.get(name)),
                _cell(less(own, with_truth)),
                _cell(less(own, alone)),
            ]
        )
    headings = ["teacher", f"`{PLAIN}`", f"`{RECIPE}`", f"less `{PLAIN}`", "less `output+gt`", "less `scratch`"]
    return table(headings, lines)


def thieves(rows: Sequence[Row]) -> dict[str, dict[str, Interval | None]]:
    """By kind of theft and subject, a thief's students of the hardened file less the key holder's."""
    tuned, untuned = boards(rows), boards(rows, ASVP, tuned=False)
    kinds = {
        "`fitnets`, hardened": (tuned, "fitnets"),
        "`fsp`, hardened": (tuned, "fsp"),
        "`fitnets` untuned, plain ASVP": (untuned, "fitnets"),
        "`fsp` untuned, plain ASVP": (untuned, "fsp"),
        f"`{PLAIN}`, hardened": (tuned, PLAIN),
    }
    own = holders(rows)
    return {
        kind: {name: less(scores_of(given.get(name), recipe, "hardened"), own[name]) for name in own}
        for kind, (given, recipe) in kinds.items()
    }


def thieves_table(rows: Sequence[Row]) -> str:
    found = thieves(rows)
    return table(
        ["teacher", *found], ([name, *(_cell(gaps[name]) for gaps in found.values())] for name in holders(rows))
    )


def goals(rows: Sequence[Row]) -> str:
    """Which goals were reached, in words."""
    gains = {name: gain for name, gain in over_plain(rows).items() if name in TASKS}
    surely = [name for name, (gain, width) in gains.items() if width is not None and gain > width]
    mean, width = _mean_of_teachers(rows, list(gains))
    certain = "" if width is None else (", and shown" if mean - width >= GOAL_DB else ", but not shown by three seeds")
    counts = []
    for kind, gaps in thieves(rows).items():
        ran = [gap[0] for gap in gaps.values() if gap is not None]
        counts.append(f"{kind}: {sum(gap <= THIEF_GOAL_DB for gap in ran)} of {len(ran)}")
    names = ", ".join(surely) or "none"
    middle = number(float(np.median([gain for gain, _ in gains.values()])))
    return (
        f"Over plain distillation: {plus_minus(mean, width)} dB, mean of {len(gains)} published teachers, interval "
        f"over seeds (goal {GOAL_DB:g}: {_reached(mean >= GOAL_DB)}{certain}), median of the teachers {middle} dB; the "
        f"interval is above 0 on {len(surely)} of them, {names} (goal {GOAL_TASKS}: "
        f"{_reached(len(surely) >= GOAL_TASKS)}). Teachers on which a thief ends at least {-THIEF_GOAL_DB:g} dB below "
        f"the key holder, the quickstart's included: {'; '.join(counts)}."
    )


def _mean_of_teachers(rows: Sequence[Row], names: Sequence[str]) -> Interval:
    """Mean over the teachers of the gains over plain distillation, per seed first, so that seeds give the interval."""
    plain, own = boards(rows), holders(rows)
    gains = [np.subtract(own[name], scores_of(plain[name], PLAIN, "clean")) for name in names]
    by_seed = np.mean(gains, axis=0)
    return float(np.mean(by_seed)), interval95([float(gain) for gain in by_seed])


def _reached(goal: bool) -> str:
    return "reached" if goal else "missed"


def _group(scores: Scores) -> str:
    return f"{plus_minus(float(np.mean(scores)), interval95(scores))} dB" if scores else "-"


def _cell(found: Interval | None) -> str:
    return f"{plus_minus(*found)} dB" if found else "not run"
