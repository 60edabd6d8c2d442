"""Compute capabilities: what may be asked for, and which GPU an engine is for."""

from __future__ import annotations

import pytest

from kdguard.export.errors import UserError
from kdguard.runtime.engines.gpus import in_words, parse_gpus, runs_on


def test_they_are_sorted_by_number() -> None:
    assert parse_gpus(["12.0", "8.9", "7.5", "8.9"]) == ["7.5", "8.9", "12.0"]
    assert parse_gpus([]) == []


@pytest.mark.parametrize("text", ["89", "sm_89", "8.", "8.9a", "", "-8.9", "0.5"])
def test_what_is_none(text: str) -> None:
    with pytest.raises(UserError, match=r"^--gpu: .* is no compute capability; write MAJOR.MINOR"):
        parse_gpus(["8.6", text])


@pytest.mark.parametrize(
    ("capability", "later", "runs"),
    [("8.6", False, True), ("12.0", False, False), ("12.0", True, True), ("8.7", True, False), ("7.5", True, False)],
)
def test_later_ones_are_later_than_all_of_them(capability: str, later: bool, runs: bool) -> None:
    assert runs_on(capability, ["8.6", "8.9"], later) is runs


def test_in_words() -> None:
    assert in_words(["8.6", "8.9"], later=True) == "8.6, 8.9 and later"
    assert in_words(["7.5"], later=False) == "7.5"
