"""Advice that a pipeline's user can follow: every option that a stage may name has a field, which exists."""

from __future__ import annotations

import ast
import re
from typing import get_args

import pytest
from pydantic import BaseModel

from kdguard.export.errors import GateFailedError
from kdguard.runtime.pipeline import Pipeline
from kdguard.runtime.pipeline_advice import FIELDS, advising_by_fields, as_fields, board_by_fields
from kdguard.runtime.red_team.scoreboard import NotRun
from tests.conftest import ROOT
from tests.runtime.report.made_up import scoreboard

NO_STAGES = ("bench", "commands", "defences", "engines", "gpu_check", "kernels")
"""Of `runtime`; the bench names what its caller says."""
NO_FILES = ("cli.py", "tables.py", "usage.py")
OF_RUN = {"--out", "--json", "--steps", "--seeds", "--cache"}
NEVER_IN_PIPELINES = {"--modulation", "--holder", "--holders", "--gate-key-output"}


@pytest.mark.parametrize(
    ("advice", "told"),
    [
        ("name one with --tap", "name one with attack.tap"),
        (
            "Lower --gain, choose other --layers, or use --placement paired",
            "Lower harden.gain, choose other harden.layers, or use harden.placement: paired",
        ),
        ("more --steps or a larger --size; see `kdguard inspect MODEL --data DIR`", None),
        ("choose another --cache", "choose another run folder (--out)"),
        ("a--tap /x/--tap --taps ---", "a--tap /x/--tap --taps ---"),
        ("--size-multiple (4)", "teacher.size_multiple (4)"),
    ],
)
def test_fields_for_options(advice: str, told: str | None) -> None:
    told = told or "more --steps or a larger attack.training.size; see `kdguard inspect MODEL --data DIR`"
    assert as_fields(advice) == told


def test_an_error_stays_what_it_is() -> None:
    with pytest.raises(GateFailedError, match=r"^Lower harden\.gain$"), advising_by_fields():
        raise GateFailedError("Lower --gain")


def test_a_scoreboard_says_it_too() -> None:
    missing = NotRun(recipe="fitnets", tier="T1", reason="no layer to tap; name one with --tap")
    board = scoreboard().model_copy(update={"not_run": [missing], "notes": ["give a larger --size"]})
    told = board_by_fields(board)
    assert [entry.reason for entry in told.not_run] == ["no layer to tap; name one with attack.tap"]
    assert told.notes == ["give a larger attack.training.size"]


def test_every_field_exists() -> None:
    for field in FIELDS.values():
        section: type[BaseModel] = Pipeline
        for name in field.split("."):
            annotation = section.model_fields[name].annotation
            section = next(
                (kind for kind in (annotation, *get_args(annotation)) if hasattr(kind, "model_fields")), section
            )


def test_every_option_that_a_stage_names_has_a_field() -> None:
    files = [path for folder in ("export", "graph_passes", "runtime") for path in (ROOT / folder).rglob("*.py")]
    apart = [ROOT / "runtime" / name for name in (*NO_STAGES, *NO_FILES, "pipeline_advice.py")]
    files = [path for path in files if not {path, *path.parents} & {*apart}]
    named = {option: path for path in files for text in _texts(path.read_text()) for option in _options(text)}
    assert {"--layers", "--tap", "--task", "--size-multiple"} <= named.keys()
    assert {o: named[o] for o in named.keys() - FIELDS.keys() - OF_RUN - NEVER_IN_PIPELINES} == {}


def _options(text: str) -> list[str]:
    return re.findall(r"(?<![\w/-])--[a-z]+(?:-[a-z]+)*", "".join(text.split("`")[::2]))


def _texts(source: str) -> list[str]:
    """Strings that are no docstrings; pieces of one string stand together, since backticks may enclose several."""
    tree = ast.parse(source)
    documentation = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    inside = {id(part) for node in ast.walk(tree) if isinstance(node, ast.JoinedStr) for part in node.values}
    texts = []
    for node in ast.walk(tree):
        if id(node) in documentation or id(node) in inside:
            continue
        if isinstance(node, ast.JoinedStr):
            texts.append("".join(str(p.value) if isinstance(p, ast.Constant) else "X" for p in node.values))
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            texts.append(node.value)
    return texts
