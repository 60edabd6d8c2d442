"""One line for what the command line refuses: the option, the value, and what is allowed."""

from __future__ import annotations

from typing import Any

import typer

from kdguard.export.errors import in_plain_words

# Some releases of typer depend on click, others carry their own; the base class is the same part of either.
UsageError: type[Any] = typer.BadParameter.__mro__[1]


def describe_usage_error(error: Any) -> str:
    """What typer found wrong with the arguments, in one line.

    Args:
        error: a `UsageError`.
    """
    parameter = getattr(error, "param", None)
    if parameter is None:
        message = " ".join(error.format_message().split()).removesuffix(".")
        hint = f"; see `{error.ctx.command_path} --help`" if error.ctx else ""
        return f"{message[:1].lower()}{message[1:]}{hint}"
    name = max(parameter.opts, key=len) if parameter.param_type_name == "option" else parameter.name.upper()
    if type(error).__name__ == "MissingParameter":
        return f"{name} is missing: {getattr(parameter, 'help', None) or 'it must be given'}"
    problems = error.__cause__.errors() if hasattr(error.__cause__, "errors") else []
    what = in_plain_words(problems[0]) if problems else " ".join(error.message.split()).removesuffix(".")
    return f"{name}: {what}"
