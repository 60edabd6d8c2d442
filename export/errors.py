"""The exceptions every part of kdguard raises on purpose.

Two families only: `UserError` and its kin carry one line for the person at the
keyboard (what was wrong, where, what to do) and an exit code; anything else that
escapes is our bug and shows its traceback.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pydantic import ValidationError

_TERMINAL_CODES = re.compile(r"\x1b\[[0-9;]*m")


class UserError(Exception):
    """The input was wrong: a bad file, bad data, a bad option. Exit code 2."""

    exit_code = 2


class MissingDependencyError(UserError):
    """This machine lacks something the command needs: a package, a GPU. Exit code 3."""

    exit_code = 3


class GateFailedError(UserError):
    """The work was done and a fidelity gate failed. Exit code 1."""

    exit_code = 1


def first_line(error: BaseException, limit: int = 300) -> str:
    """The first line of a foreign exception's message, for use inside one of ours."""
    lines = (line.strip() for line in _TERMINAL_CODES.sub("", str(error)).splitlines())
    return next((line for line in lines if line), type(error).__name__)[:limit]


def root_cause(error: BaseException) -> BaseException:
    """The exception that started a chain of `raise ... from ...`."""
    while error.__cause__ is not None:
        error = error.__cause__
    return error


def first_problem(error: ValidationError) -> tuple[str, str]:
    """Where and what of the first thing that pydantic found wrong."""
    problem = error.errors()[0]
    return ".".join(map(str, problem["loc"])), problem["msg"].removeprefix("Value error, ")
