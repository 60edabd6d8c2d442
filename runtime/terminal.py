"""What commands say: results on standard output, progress on standard error."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

# Piped output has no width of its own, and rich would fold tables at 80 columns.
_out = Console(width=None if sys.stdout.isatty() else 140)
_progress = Console(stderr=True)


def say(text: str, style: str = "") -> None:
    """Print a line as it is: no markup in file names, no wrapping of paths that scripts may cut out.

    Control characters go: names come from files that nobody vouches for, and could rewrite what stands above.
    """
    text = "".join(character if character.isprintable() or character == "\n" else "?" for character in text)
    _out.print(text, style=style, markup=False, highlight=False, soft_wrap=True)


def show(table: Table) -> None:
    """Print a table."""
    _out.print(table)


def announce(stage: str) -> None:
    """Start a stage of a longer job."""
    _progress.rule(f"[bold]{stage}", align="left")


@contextmanager
def progress_bar(description: str, total: int) -> Iterator[Callable[[], None]]:
    """Show a bar and yield the function that advances it by one; a log gets its final state.

    Work that is done sooner than expected ends with a full bar; one that stands still was broken off.
    """
    columns = (
        TextColumn("{task.description:<34}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=_progress) as progress:
        task = progress.add_task(description, total=total)
        yield lambda: progress.advance(task)
        progress.update(task, total=progress.tasks[0].completed)
