"""The scoreboard for the terminal, and in words."""

from __future__ import annotations

from rich.table import Table

from kdguard.runtime.recipes import get_recipe
from kdguard.runtime.recipes.base import Source
from kdguard.runtime.red_team.landmarks import Landmarks
from kdguard.runtime.red_team.scoreboard import Group, Scoreboard, SummaryEntry
from kdguard.runtime.wording import beside, counted, number, plus_minus

_CONTROLS: dict[tuple[Source, ...], str] = {
    ("none",): "no teacher",
    ("clean",): "clean teacher only",
    ("hardened",): "hardened teacher, asked with a key",
}


def scoreboard_table(board: Scoreboard) -> Table:
    """The best response first, then one line per recipe: students from the clean teacher against the hardened one's."""
    spread = f"mean ± 95 % interval over {board.seeds} seeds" if board.seeds > 1 else "one seed, no interval"
    title = f"Students: PSNR on {counted(board.test_images, 'test image')}, {spread}"
    if board.tap:
        title += f"; features read at {board.tap}"
    table = Table(title=f"{title}\n{best_response_line(board)}", caption="\n".join(_footnotes(board)) or None)
    for heading in ("recipe", "tier", "clean", "hardened", "drop", "pooled", "at most", "SSIM drop"):
        table.add_column(heading, justify="left" if heading in ("recipe", "tier") else "right", no_wrap=True)
    best = board.best_response
    if best is not None:
        drop = plus_minus(best.drop_db, best.drop_ci95)
        sides = board.entry(best.clean.recipe).clean, board.entry(best.hardened.recipe).hardened
        table.add_row("best response", "", *map(_students, sides), drop, "", "", "", style="bold")
        table.add_section()
    if board.landmarks is not None:
        _add_landmarks(table, board.landmarks)
    for entry in board.summary:
        measured = entry.compared and not entry.diverged
        table.add_row(
            entry.recipe,
            entry.tier,
            _students(entry.clean),
            _students(entry.hardened) if entry.compared else control_words(entry),
            plus_minus(entry.drop_db, entry.drop_ci95) if measured else "",
            number(entry.pooled_drop_db) if entry.bound_db is not None else "",
            number(entry.bound_db) if entry.bound_db is not None else "",
            f"{number(entry.ssim_drop_pct, 1)} %" if measured else "",
        )
    return table


def _add_landmarks(table: Table, marks: Landmarks) -> None:
    """What students are to be compared with."""
    table.add_row("degraded input", "", number(marks.degraded.psnr), number(marks.degraded.psnr), style="dim")
    loss = number(marks.clean.psnr - marks.hardened.psnr)
    table.add_row("teacher", "", number(marks.clean.psnr), number(marks.hardened.psnr), loss, style="dim")
    table.add_section()


def control_words(entry: SummaryEntry) -> str:
    """What a control or a key holder was taught by."""
    return _CONTROLS[get_recipe(entry.recipe).sources]


def _students(group: Group) -> str:
    return f"{group.diverged} diverged" if group.diverged else plus_minus(group.psnr, group.ci95)


def _footnotes(board: Scoreboard) -> list[str]:
    lines = []
    if any(entry.bound_db is not None for entry in board.summary):
        lines.append(
            "pooled, at most: drop of the error over all images together, and what outputs so close can cost students "
            "trained to the end; seeds alone differ by more"
        )
    if board.help_left:
        lines.append(help_left_line(board))
    lines += [f"{missing.recipe} ({missing.tier}) was not run: {missing.reason}" for missing in board.not_run]
    return lines


def drop_or_gain(drop_db: float, half_width: float | None = None) -> str:
    """`drop 0.30`; `gain 0.30` where the student from the hardened teacher is the better one."""
    return f"{'gain' if round(drop_db, 2) < 0 else 'drop'} {plus_minus(abs(drop_db), half_width)}"


def best_response_line(board: Scoreboard) -> str:
    """What the attacker's best choice gives him, and what was not tried."""
    best = board.best_response
    if not any(entry.compared for entry in board.summary):
        return "best response: not asked, only controls and key holders ran"
    if best is None:
        return "best response: none, every student of one side diverged"
    line = (
        f"best response: {number(best.clean.psnr)} dB from clean ({best.clean.recipe}), "
        f"{number(best.hardened.psnr)} dB from hardened ({best.hardened.recipe}), "
        + ("the same students" if best.same_students else f"{drop_or_gain(best.drop_db, best.drop_ci95)} dB")
    )
    if lost := [entry.recipe for entry in board.summary if entry.diverged]:
        line += f"; students of {', '.join(lost)} diverged and count for nothing"
    if not any(entry.tier == "T0" for entry in board.summary):
        line += "; no output-only recipe (T0) ran, a real attacker has that choice too"
    return line


def help_left_line(board: Scoreboard) -> str:
    """What the hardened teacher adds for an attacker with ground truth; asks for a board that has it."""
    left = board.help_left
    assert left is not None
    line = (
        f"with ground truth, {left.recipe} from the hardened teacher is {beside(left.gain_db, left.gain_ci95)} scratch"
    )
    if left.clean_gain_db is not None:
        line += f", from the clean one {beside(left.clean_gain_db, left.clean_gain_ci95)} it"
    return line
