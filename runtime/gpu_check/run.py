"""Runs checks and timings one after the other; one that breaks does not keep the others from running."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar

from kdguard.export.errors import first_line
from kdguard.runtime.gpu_check.checks import CHECKS
from kdguard.runtime.gpu_check.context import Context, Skipped
from kdguard.runtime.gpu_check.environment import describe_environment
from kdguard.runtime.gpu_check.report import CheckResult, Report, Timing
from kdguard.runtime.gpu_check.timings import TIMINGS

Found = TypeVar("Found", CheckResult, Timing)
NAMES = (*CHECKS, *TIMINGS)


def run_all(context: Context, only: Sequence[str] = (), say: Callable[[str], None] = print) -> Report:
    """Run what is named, or everything.

    Args:
        say: gets a line per result as it comes.
    """
    checks: list[CheckResult] = []
    timings: list[Timing] = []
    for name, check in CHECKS.items():
        if not only or name in only:
            for result in _guarded(check(context), lambda state, why, n=name: CheckResult(n, n, state, why)):
                say(f"{result.state:8}{result.check}: {result.what}{_why(result)}")
                checks.append(result)
    for name, measure in TIMINGS.items():
        if not only or name in only:
            for timing in _guarded(measure(context), lambda state, why, n=name: Timing(n, f"{n} {state}", reason=why)):
                say(f"timed   {timing.timing}: {timing.what}{f' ({timing.reason})' if timing.reason else ''}")
                for label, ratio in timing.ratios.items():
                    say(f"        {label}: {ratio:g}")
                timings.append(timing)
    return Report(describe_environment(context.library), checks, timings)


def _guarded(results: Iterator[Found], other: Callable[..., Found]) -> Iterator[Found]:
    """What a check yields, and a last result that says so where it was left out or broke."""
    try:
        yield from results
    except Skipped as reason:
        yield other("skipped", str(reason))
    except Exception as error:  # whatever it is, the other checks still have something to say
        yield other("failed", f"{type(error).__name__}: {first_line(error)}")


def _why(result: CheckResult) -> str:
    measured = f", error {result.error:.2g} of {result.limit:g}" if result.error is not None else ""
    return measured + (f" ({result.reason})" if result.reason else "")
