"""Tables for the terminal."""

from __future__ import annotations

from rich.table import Table

from kdguard.runtime.fidelity import FidelityReport
from kdguard.runtime.scoreboard import Group, Scoreboard


def fidelity_table(report: FidelityReport) -> Table:
    """Both gates at a glance."""
    verdict = "[green]passed[/]" if report.within_budget else "[red]failed[/]"
    table = Table(
        title=f"Fidelity {verdict} on {report.n} images ({report.provider})",
        caption=(
            f"loss {report.delta_psnr_db:.4f} dB (budget {report.budget_db:g}); hardened against clean "
            f"{report.psnr_between_db:.1f} dB (floor {report.psnr_between_floor_db:.1f})"
        ),
    )
    for heading in ("model", "PSNR dB", "SSIM"):
        table.add_column(heading, justify="left" if heading == "model" else "right")
    table.add_row("clean teacher", f"{report.teacher.psnr:.3f}", f"{report.teacher.ssim:.4f}")
    table.add_row("hardened", f"{report.hardened.psnr:.3f}", f"{report.hardened.ssim:.4f}")
    return table


def plus_minus(value: float, half_width: float | None, digits: int = 2) -> str:
    """A mean with its 95 % half width, where there is one."""
    return f"{value:.{digits}f}" + ("" if half_width is None else f" ± {half_width:.{digits}f}")


def scoreboard_table(board: Scoreboard) -> Table:
    """One line per recipe; students from the clean teacher against students from the hardened one."""
    best = board.best_response
    table = Table(
        title=f"Students ({board.student}, {board.student_parameters:,} parameters), {board.seeds} seed(s), PSNR in dB",
        caption=(
            "no distillation recipe ran"
            if best is None
            else f"best response: {best.clean.recipe} {best.clean.psnr:.2f} from the clean teacher, "
            f"{best.hardened.recipe} {best.hardened.psnr:.2f} from the hardened one, drop {best.drop_db:.2f} dB"
        ),
    )
    for heading in ("recipe", "tier", "from clean", "from hardened", "drop", "SSIM drop"):
        table.add_column(heading, justify="left" if heading in ("recipe", "tier") else "right")
    for entry in board.summary:
        control = entry.tier == "control"
        table.add_row(
            entry.recipe,
            entry.tier,
            _quality(entry.clean),
            "no teacher" if control else _quality(entry.hardened),
            "" if control else plus_minus(entry.drop_db, entry.drop_ci95),
            "" if control else f"{entry.ssim_drop_pct:.1f} %",
        )
    return table


def _quality(group: Group) -> str:
    return f"{plus_minus(group.psnr, group.ci95)} / {group.ssim:.3f}"
