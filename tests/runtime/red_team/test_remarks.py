"""What a scoreboard does not show by itself is said."""

from __future__ import annotations

import dataclasses

from kdguard.runtime.red_team.landmarks import Landmarks
from kdguard.runtime.red_team.options import TrainingOptions
from kdguard.runtime.red_team.remarks import remarks
from kdguard.runtime.red_team.scoreboard import Scoreboard, Setting
from tests.runtime.red_team.test_scoreboard import TRIALS, board, landmarks, trial


def setting(**changes: object) -> Setting:
    facts: dict[str, object] = {
        "kdguard": "0",
        "teacher": "t.onnx",
        "teacher_sha256": "1",
        "hardened": "h.onnx",
        "hardened_sha256": "2",
        "hardened_layers": ["b", "d"],
        "task": None,
        "owned_images": 4,
        "tiles": 8,
        "tile_side": 32,
        "seed": 0,
        "training": TrainingOptions(),
    }
    return Setting.model_validate(facts | changes)


def found(
    made: Scoreboard | None = None, marks: Landmarks | None = None, tap: str | None = "d", **changes: object
) -> str:
    """All remarks on a board whose figures are sound unless told otherwise."""
    update = {"setting": setting(**changes), "landmarks": marks or landmarks(), "tap": tap}
    return "\n".join(remarks((made or board(TRIALS)).model_copy(update=update)))


def test_sound_runs_need_no_remark() -> None:
    assert found() == ""
    assert found(tap=None) == ""


def test_wrong_files() -> None:
    assert "same model" in found(hardened_sha256="1")
    assert "no layer that kdguard hardened" in found(hardened_layers=[])
    assert "'a' is no hardened layer" in found(tap="a")
    off = landmarks().model_copy(update={"failures": ["loss 3.0 dB is over the budget"]})
    assert "loss 3.0 dB is over the budget: is it made from this teacher?" in found(marks=off)


def test_students_that_all_diverged_compare_nothing() -> None:
    lost = [dataclasses.replace(t, diverged=True) for t in TRIALS]
    assert "every student of one side diverged, so nothing is compared; give smaller" in found(board(lost))
    assert found(board(TRIALS[:3])) == ""


def test_students_that_learned_nothing() -> None:
    assert "no student is better than the degraded input itself (40.00 dB)" in found(marks=landmarks(degraded_db=40.0))
    scratch_leads = board([*TRIALS, *(trial("scratch", "none", s, 50.0) for s in (3, 4))])
    assert "no recipe that asks the teacher beats training without it" in found(scratch_leads)
