"""The exceptions every part of kdguard raises on purpose.

Two families only: `UserError` and its kin carry one line for the person at the
keyboard (what was wrong, where, what to do) and an exit code; anything else that
escapes is our bug and shows its traceback.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pydantic import BaseModel, ValidationError
    from pydantic_core import ErrorDetails

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


def first_problem(error: ValidationError, model: type[BaseModel] | None = None) -> tuple[str, str]:
    """Where and what of the first thing that pydantic found wrong; `model` as for `in_plain_words`."""
    problem = error.errors()[0]
    return _shortened(".".join(map(str, problem["loc"]))), in_plain_words(problem, model)


_LONGEST_QUOTE = 80
"""Characters of what was given; a message is one line."""
NOT_ALLOWED = "is not allowed; give {expected}"
_ALLOWED = {
    "greater_than": "is too small; give more than {gt:g}",
    "greater_than_equal": "is too small; give {ge:g} or more",
    "less_than": "is too large; give less than {lt:g}",
    "less_than_equal": "is too large; give {le:g} or less",
    "finite_number": "is not a finite number",
    "literal_error": NOT_ALLOWED,
    "enum": NOT_ALLOWED,
    "int": "is not a whole number",
    "float": "is not a number",
    "bool": "is neither true nor false",
    "string": "is not text; put it in quotes",
    "list": "is not a list; write it in brackets",
    "tuple": "is not a list; write it in brackets",
    "path": "is not a path",
    "dict": "is not a mapping; write NAME: VALUE below it, indented",
    "model": "is not a section; put its fields below it, indented",
    "string_too_short": "is too short; give {min_length} or more characters",
    "too_short": "is too short; give {min_length} or more values",
    "too_long": "is too long; give {max_length} or fewer values",
}
"""What is wrong with a value and what is allowed, by pydantic's type of problem or the first part of its name."""


def in_plain_words(problem: ErrorDetails, model: type[BaseModel] | None = None) -> str:
    """What pydantic found wrong, for people: the value, and what is allowed.

    Nothing is quoted of a file that is no JSON object: it may be another than was meant, a secret key.

    Args:
        model: what was validated; without it nobody is told that an empty field may be left out.
    """
    kind, given = problem["type"], problem["input"]
    if given is None and kind != "value_error":
        return f"is empty; give a value{', or leave it out' if _has_default(model, problem['loc']) else ''}"
    if plain := _without_the_value(problem):
        return plain
    wanted = _ALLOWED.get(kind) or _ALLOWED.get(kind.split("_")[0])
    if wanted is None:
        return f"{_shortened(repr(given))}: {problem['msg']}"
    shown = f"{given:g}" if isinstance(given, float) else str(given) or "''"
    if shown.strip().lower() == "nan" and "; " in wanted:  # neither too small nor too large
        wanted = f"is not a number; {wanted.partition('; ')[2]}"
    return f"{_shortened(shown)} {wanted.format(**problem.get('ctx', {}))}"


def _shortened(text: str) -> str:
    """What was given, as far as a line has room for it."""
    return text if len(text) <= _LONGEST_QUOTE else f"{text[:_LONGEST_QUOTE]}..."


def _without_the_value(problem: ErrorDetails) -> str | None:
    """What is wrong where the value says nothing about it; None elsewhere."""
    match problem["type"]:
        case "missing":
            return "missing"
        case "extra_forbidden":
            return "no such field"
        case "json_invalid":  # the rest of pydantic's message may name characters of the text
            where = re.search(r" at line \d+ column \d+", problem["msg"])
            return f"is no valid JSON{where[0] if where else ''}"
        case "model_type" if not problem["loc"]:
            return "is no JSON object"
        case "value_error":
            return problem["msg"].removeprefix("Value error, ").removesuffix(".")
    return None


def _has_default(model: type[BaseModel] | None, where: Sequence[int | str]) -> bool:
    """Whether the field there, or the entry of a list, may be left out."""
    if model is None or not where:
        return False
    field = model.model_fields.get(str(where[0]))
    if field is None or len(where) == 1:
        return field is None or not field.is_required()
    inner: Any = field.annotation
    return _has_default(inner, where[1:]) if hasattr(inner, "model_fields") else True
