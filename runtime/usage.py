"""One line for what the command line refuses: the option, the value, and what is allowed."""

from __future__ import annotations

import re
from typing import Any

import typer

from kdguard.export.errors import NOT_ALLOWED, in_plain_words

# Some releases of typer depend on click, others carry their own; the base class is the same part of either.
UsageError: type[Any] = typer.BadParameter.__mro__[1]

# Typer's and click's own wording, which carries what was given nowhere else.
_UNEXPECTED = re.compile(r"Got unexpected extra arguments?(?:\(s\))? \((.*)\)")
_TOO_FEW = re.compile(r"Option '(.*)' requires (\d+) arguments")
_NO_CHOICE = re.compile(r"(['\"])(.*)\1 is not one of (.*)")


def describe_usage_error(error: Any) -> str:
    """What typer found wrong with the arguments, in one line.

    Args:
        error: a `UsageError`.
    """
    parameter = getattr(error, "param", None)
    if parameter is None:
        message = _one_line(error.format_message())
        hint = f"; see `{error.ctx.command_path} --help`" if error.ctx else ""
        if unexpected := _UNEXPECTED.fullmatch(message):
            return f"too many arguments: {unexpected[1]}{hint}"
        if few := _TOO_FEW.fullmatch(message):
            return f"{few[1]} takes {few[2]} values, with spaces between them"
        return f"{message[:1].lower()}{message[1:]}{hint}"
    name = max(parameter.opts, key=len) if parameter.param_type_name == "option" else parameter.name.upper()
    if type(error).__name__ == "MissingParameter":
        return f"{name} is missing: {getattr(parameter, 'help', None) or 'it must be given'}"
    problems = error.__cause__.errors() if hasattr(error.__cause__, "errors") else []
    what = in_plain_words(problems[0]) if problems else _one_line(error.message)
    if choice := _NO_CHOICE.fullmatch(what):
        what = f"{choice[2]} {NOT_ALLOWED.format(expected=' or '.join(choice[3].rsplit(', ', 1)))}"
    return f"{name}: {what}"


def _one_line(message: str) -> str:
    return " ".join(message.split()).removesuffix(".")
