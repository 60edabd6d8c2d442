"""Runs checks and timings one after the other; one that breaks does not keep the others from running.

Each runs in a process of its own (`run_apart`), for a fault on the device fails everything that its process asks for
afterwards, and takes the process along at times. `run_here` is what such a process does.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from kdguard.export.errors import first_line
from kdguard.runtime.gpu_check.checks import CHECKS
from kdguard.runtime.gpu_check.context import Context, Skipped
from kdguard.runtime.gpu_check.environment import describe_environment
from kdguard.runtime.gpu_check.report import CheckResult, Report, Timing
from kdguard.runtime.gpu_check.timings import TIMINGS

Result = CheckResult | Timing
NAMES = (*CHECKS, *TIMINGS)
PROGRAM = (sys.executable, "-m", "kdguard.runtime.gpu_check")
LIMIT_S = 1800
"""For one check or timing: a kernel that waits for ever must not keep the others from running."""


def run_apart(
    context: Context,
    only: Sequence[str] = (),
    say: Callable[[str], None] = print,
    program: Sequence[str] = PROGRAM,
) -> Report:
    """Run what is named, or everything, each in a process of its own.

    Args:
        say: gets a line per result.
        program: `gpu_check` as a command.
    """
    report = Report(describe_environment(context.library))
    for name in _chosen(only):
        for result in _from_process(name, context, program):
            _tell(result, say)
            report.add(result)
    return report


def run_here(
    context: Context,
    only: Sequence[str] = (),
    say: Callable[[str], None] = print,
    keep: Callable[[Report], None] = lambda _: None,
) -> Report:
    """Run what is named, or everything, in this process.

    Args:
        say: gets a line per result as it comes.
        keep: gets the report with every result, in case that this process does not live to see the next one.
    """
    report = Report(describe_environment(context.library))
    for name in _chosen(only):
        for result in _guarded(name, context):
            _tell(result, say)
            report.add(result)
            keep(report)
    return report


def _chosen(only: Sequence[str]) -> list[str]:
    return [name for name in NAMES if not only or name in only]


def _other(name: str, state: str, why: str) -> Result:
    """A result that says why there is none."""
    if name in CHECKS:
        return CheckResult(name, name, "skipped" if state == "skipped" else "failed", why)
    return Timing(name, name, "skipped" if state == "skipped" else "failed", reason=why)


def _guarded(name: str, context: Context) -> Iterator[Result]:
    """What a check or timing yields, and a last result that says so where it was left out or broke."""
    try:
        yield from CHECKS[name](context) if name in CHECKS else TIMINGS[name](context)
    except Skipped as reason:
        yield _other(name, "skipped", str(reason))
    except Exception as error:  # whatever it is, the other checks still have something to say
        yield _other(name, "failed", f"{type(error).__name__}: {first_line(error)}")


def _from_process(name: str, context: Context, program: Sequence[str]) -> Iterator[Result]:
    """What one of them found in a process of its own, and a last result that says so where that did not end well."""
    out = context.folder / f"{name}.json"
    command = [*program, "--in-process", "--library", str(context.library.path), "--only", name, "--out", str(out)]
    command += ["--small"] if context.small else []
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    try:
        done = subprocess.run(  # noqa: S603  # ourselves
            command, capture_output=True, text=True, check=False, env=environment, timeout=LIMIT_S
        )
        said = done.stderr.strip().splitlines() or ["it said nothing"]
        broken = "" if done.returncode in (0, 1) else f"its process ended with {done.returncode}: {said[-1][:300]}"
    except subprocess.TimeoutExpired:
        broken = f"it was ended after {LIMIT_S} s"
    found = _read(out)
    yield from found
    if broken or not found:
        yield _other(name, "failed", broken or f"its process found nothing: {said[-1][:300]}")


def _read(out: Path) -> list[Result]:
    if not out.is_file():
        return []
    report = Report.read(out)
    return [*report.checks, *report.timings]


def _tell(result: Result, say: Callable[[str], None]) -> None:
    reason = f" ({result.reason})" if result.reason else ""
    if isinstance(result, CheckResult):
        measured = f", error {result.error:.2g} of {result.limit:g}" if result.error is not None else ""
        say(f"{result.state:8}{result.check}: {result.what}{measured}{reason}")
        return
    say(f"{result.state:8}{result.timing}: {result.what}{reason}")
    for label, ratio in result.ratios.items():
        say(f"        {label}: {ratio:g}")
