"""What docs/published-box.md shows: Safe Distillation Box as published, beside what is shipped here."""

from __future__ import annotations

from collections.abc import Sequence

from authorised import Interval, less, over_plain, scores_of
from scoreboards import OURS, SUBJECTS, Row, boards
from table_text import number, table

from kdguard.runtime.recipes.keyed_answers import HalfKeyedAnswers, KeyedAnswers
from kdguard.runtime.wording import plus_minus

PLAIN = "output-l1"
THIEVES = (PLAIN, "fitnets", "fitnets-standardised")
HOLDERS = (HalfKeyedAnswers(), KeyedAnswers())
NAMED = " ".join(f"--defence {holder.box.name}" for holder in HOLDERS)


def answers_table(rows: Sequence[Row]) -> str:
    """How strong the budget lets it be, and what keyed inputs are answered with."""
    headings = [
        "teacher",
        "lambda",
        "share of the way",
        "teacher, without key",
        "it loses",
        "clean teacher, keyed",
        "box, keyed",
    ]
    lines = []
    for subject in SUBJECTS:
        for holder in HOLDERS:
            for row in rows:
                if (row["subject"], row["defence"]) == (subject, holder.box.name):
                    lines.append([subject, f"{holder.box.share:g}", *_answers(row)])
    return table(headings, lines) if lines else f"Not recorded yet: `python benchmarks/prior_defences.py {NAMED}`."


def _answers(row: Row) -> list[str]:
    if row["strength"] is None:
        return ["none holds", *["-"] * 4]
    return [
        number(row["strength"], 3),
        f"{number(row['teacher_db'])} dB",
        f"{number(row['test_loss_db'], 3)} dB",
        f"{number(row['keyed_clean_db'])} dB",
        f"{number(row['keyed_db'])} dB",
    ]


def students_table(rows: Sequence[Row]) -> str:
    """Drops of thieves, and what key holders are better than plain distillation from the clean teacher; ours below."""
    plain = boards(rows)
    headings = ["teacher", "defence", *(f"thief, `{name}`" for name in THIEVES), f"key holder less `{PLAIN}`"]
    lines = []
    for subject in SUBJECTS:
        recorded = [(holder, boards(rows, holder.box.name).get(subject)) for holder in HOLDERS]
        if all(board is None for _, board in recorded):
            continue
        for holder, board in recorded:
            if board is None:
                continue
            gain = less(scores_of(board, holder.name, "hardened"), scores_of(board, PLAIN, "clean"))
            lines.append([subject, holder.box.name, *_drops(board), _cell(gain)])
        lines.append([subject, OURS, *_drops(plain.get(subject)), _cell(over_plain(rows).get(subject))])
    if not lines:
        return f"Not recorded yet: `python benchmarks/red_team.py --recipes keyed --defence {HOLDERS[0].box.name}`."
    return table(headings, lines)


def _drops(board: Row | None) -> list[str]:
    return [_cell(less(scores_of(board, name, "clean"), scores_of(board, name, "hardened"))) for name in THIEVES]


def _cell(found: Interval | None) -> str:
    return f"{plus_minus(*found)} dB" if found else "not run"
