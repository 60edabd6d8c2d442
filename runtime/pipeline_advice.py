"""Advice for whoever runs a pipeline: its fields in place of command-line options that `kdguard run` does not have."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager

from kdguard.export.errors import UserError
from kdguard.runtime.red_team.scoreboard import Scoreboard

_SECTIONS = {
    "harden": ("layers", "placement", "rank", "gain", "centred", "budget_db", "max_slowdown", "tile_safe"),
    "teacher": ("weights", "channels", "layout", "value_range", "size_multiple", "extra_input"),
    "attack": ("recipes", "tap", "tiles", "backend"),
    "attack.training": ("size", "batch", "patch", "learning_rates"),
    "box": ("hints", "ensemble"),
}
FIELDS = {
    **{f"--{name.replace('_', '-')}": f"{section}.{name}" for section, names in _SECTIONS.items() for name in names},
    "--op-type": "harden.op_types",
    "--student": "attack.training.family",
    "--data": "data.calibration",
    "--test-data": "data.test",
    "--provider": "bench.providers",
    "--task": "task",
}
"""Where a pipeline file says what an option of the single commands says. `kdguard bench` is told by its caller."""
_RUN_FOLDER = {"--cache": "run folder (--out)"}
_OPTION = re.compile(r"(?<![\w/-])(--[a-z]+(?:-[a-z]+)*)(?: (auto|paired|compensated|in-path|joblib|ray)\b)?")


def as_fields(text: str) -> str:
    """The text with fields for options; what stands between backticks is a command, and stays."""
    parts = text.split("`")
    parts[::2] = [_OPTION.sub(_as_field, part) for part in parts[::2]]
    return "`".join(parts)


def _as_field(found: re.Match[str]) -> str:
    option, value = found.groups()
    field = FIELDS.get(option) or _RUN_FOLDER.get(option)
    if field is None:  # an option of `kdguard run`, or nothing of ours
        return found.group()
    return f"{field}: {value}" if value else field


def board_by_fields(board: Scoreboard) -> Scoreboard:
    """The scoreboard with its remarks in the pipeline's words."""
    not_run = [missing.model_copy(update={"reason": as_fields(missing.reason)}) for missing in board.not_run]
    return board.model_copy(update={"not_run": not_run, "notes": [as_fields(note) for note in board.notes]})


@contextmanager
def advising_by_fields() -> Iterator[None]:
    """Whatever the stages of a pipeline refuse is told in the pipeline's words."""
    try:
        yield
    except UserError as error:
        error.args = (as_fields(str(error)),)
        raise
