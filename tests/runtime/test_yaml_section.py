"""Booleans are no numbers, wherever in a field they stand; other fields take them as pydantic does."""

from __future__ import annotations

from typing import Annotated, Literal

import pytest
from pydantic import Field, ValidationError

from kdguard.runtime.yaml_section import YamlSection


class Section(YamlSection):
    whole: int = 0
    share: Annotated[float, Field(ge=0)] | None = None
    channels: Literal[1, 3] = 3
    pair: tuple[float, float] = (0.0, 1.0)
    constants: dict[str, list[float]] = Field(default_factory=dict)
    switch: bool = False
    inner: Section | None = None


@pytest.mark.parametrize(
    ("given", "field"),
    [
        ({"whole": True}, "whole"),
        ({"share": False}, "share"),
        ({"channels": True}, "channels"),
        ({"pair": [0, True]}, "pair"),
        ({"constants": {"sigma": [0.1, True]}}, "constants"),
        ({"inner": {"whole": True}}, "inner.whole"),
    ],
)
def test_a_boolean_is_no_number(given: dict[str, object], field: str) -> None:
    with pytest.raises(ValidationError, match=r"\(as YAML reads .*\) is not a number") as caught:
        Section.model_validate(given)
    assert [".".join(map(str, problem["loc"])) for problem in caught.value.errors()] == [field]


def test_what_is_given_as_it_should_be_is_taken() -> None:
    taken = {"whole": 1, "share": 0, "channels": 1, "pair": (0, 1), "constants": {"sigma": [1]}, "switch": True}
    assert Section.model_validate(taken | {"inner": {"switch": True}}).model_dump(exclude={"inner"}) == taken
