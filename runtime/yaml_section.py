"""What every section of a pipeline file has in common."""

from __future__ import annotations

from collections.abc import Iterator
from typing import get_args

from pydantic import BaseModel, ConfigDict, ValidationInfo, field_validator


class YamlSection(BaseModel):
    """A section that takes only its own fields, and for numbers only numbers."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    @field_validator("*", mode="before")
    @classmethod
    def _no_booleans_for_numbers(cls, given: object, info: ValidationInfo) -> object:
        """YAML reads yes and on as true, no and off as false; pydantic would take them for 1 and 0."""
        if _holds_numbers(cls.model_fields[info.field_name or ""].annotation):
            for value in _booleans(given):
                read_as = "true (as YAML reads yes and on)" if value else "false (as YAML reads no and off)"
                raise ValueError(f"{read_as} is not a number")
        return given


def _booleans(given: object) -> Iterator[bool]:
    """Those in a value, in its entries and in theirs."""
    if isinstance(given, bool):
        yield given
    elif isinstance(given, (list, tuple, dict)):
        for entry in given.values() if isinstance(given, dict) else given:
            yield from _booleans(entry)


def _holds_numbers(annotation: object) -> bool:
    """Whether a type, or a part of it as in `tuple[float, ...] | None` or `Literal[1, 3]`, is a number."""
    return annotation in (int, float) or type(annotation) is int or any(map(_holds_numbers, get_args(annotation)))
