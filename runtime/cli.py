"""The command line: one thin module per command, imported only when it runs.

Exit codes: 0 done and gates passed, 1 a gate failed, 2 the input was wrong, 3 this machine lacks
something, 129 terminal closed, 130 interrupted, 143 terminated. Errors of the user's are one line; ours
keep their traceback.
"""

from __future__ import annotations

import functools
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

import typer

from kdguard.export.errors import UserError
from kdguard.runtime.commands import (
    attack,
    baseline,
    bench,
    build,
    export,
    gate,
    harden,
    inspect,
    keygen,
    run,
    seal,
    unlock,
    verify,
)
from kdguard.runtime.usage import UsageError, describe_usage_error

INTERRUPTED = 130
"""What shells report for Ctrl-C. Click would answer 1, which here means that a gate failed."""

_ENDINGS = {"SIGTERM": "terminated", "SIGHUP": "ended, its terminal was closed"}
"""Signals that leave as little behind as Ctrl-C, and what is said of each. Shells report 128 + their number."""


class _EndedError(KeyboardInterrupt):
    """One of those signals has arrived."""

    def __init__(self, number: int) -> None:
        super().__init__()
        self.exit_code = 128 + number
        self.why = _ENDINGS[signal.Signals(number).name]


@contextmanager
def _heed_endings() -> Iterator[None]:
    """Raise where such a signal arrives, so that workers are ended and half-written files removed."""
    if threading.current_thread() is not threading.main_thread():  # no other one may handle signals
        yield
        return
    before: dict[int, Any] = {}
    arrived: list[_EndedError] = []

    def stop(number: int, _: object) -> None:
        for other in before:  # a closed terminal may say so twice, and cleaning up is not to be cut short
            signal.signal(other, signal.SIG_IGN)
        arrived.append(_EndedError(number))
        raise arrived[0]

    for name in _ENDINGS:
        number = getattr(signal, name, None)  # not every system has all
        if number is not None and not (name == "SIGHUP" and signal.getsignal(number) == signal.SIG_IGN):  # nohup
            before[number] = signal.signal(number, stop)
    try:
        yield
    except OSError:
        if arrived:  # on the way out, progress could not be written to a terminal that is closed
            raise arrived[0] from None
        raise
    finally:
        for number, handler in before.items():
            signal.signal(number, signal.SIG_DFL if handler is None else handler)


def _interruptible(command: Callable[..., None]) -> Callable[..., None]:
    @functools.wraps(command)
    def run(*args: Any, **kwargs: Any) -> None:
        try:
            with _heed_endings():
                command(*args, **kwargs)
        except _EndedError as ended:
            with suppress(OSError):  # a closed terminal takes no word
                print(f"kdguard: {ended.why}", file=sys.stderr)
            sys.exit(ended.exit_code)
        except KeyboardInterrupt:
            print("kdguard: interrupted", file=sys.stderr)
            sys.exit(INTERRUPTED)
        except EOFError as error:
            raise RuntimeError("unexpected end of a file") from error

    return run


app = typer.Typer(
    name="kdguard",
    help="Harden image-restoration models against knowledge distillation, and measure by how much.",
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
for name, command in (
    ("export", export.export),
    ("inspect", inspect.inspect),
    ("harden", harden.harden),
    ("verify", verify.verify),
    ("attack", attack.attack),
    ("baseline", baseline.baseline),
    ("build", build.build),
    ("bench", bench.bench),
    ("gate", gate.gate),
    ("keygen", keygen.keygen),
    ("seal", seal.seal),
    ("unlock", unlock.unlock),
    ("run", run.run),
):
    app.command(name)(_interruptible(command))


def _version(show: bool) -> None:
    if show:
        from importlib.metadata import version

        typer.echo(f"kdguard {version('kdguard')}")
        raise typer.Exit


@app.callback()
def _root(
    version: bool = typer.Option(False, "--version", callback=_version, is_eager=True, help="Show the version."),
) -> None:
    pass


def main() -> None:
    """Entry point of the `kdguard` script."""
    try:
        sys.exit(app(sys.argv[1:] or ["--help"], prog_name="kdguard", standalone_mode=False))
    except UsageError as error:
        print(f"kdguard: {describe_usage_error(error)}", file=sys.stderr)
        sys.exit(UserError.exit_code)
    except UserError as error:
        print(f"kdguard: {error}", file=sys.stderr)
        sys.exit(error.exit_code)


def run_process() -> None:
    """As `main`, for a process that ends then: a second Ctrl-C on the way out would only spoil the exit code."""
    try:
        main()
    finally:
        signal.signal(signal.SIGINT, signal.SIG_IGN)


if __name__ == "__main__":
    run_process()
