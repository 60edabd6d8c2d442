"""What a scoreboard does not show by itself is said."""

from __future__ import annotations

import dataclasses

import pytest

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
    assert "no layer that kdguard hardened: right for one that `kdguard baseline` made" in found(hardened_layers=[])
    assert "'a' is no hardened layer" in found(tap="a")
    off = landmarks().model_copy(update={"failures": ["loss 3.0 dB is over the budget"]})
    assert "fidelity on the test images: loss 3.0 dB is over the budget; either" in found(marks=off)


def test_students_that_all_diverged_compare_nothing() -> None:
    lost = [dataclasses.replace(t, diverged=True) for t in TRIALS]
    assert "every student of one side diverged, so nothing is compared; give smaller" in found(board(lost))
    assert found(board(TRIALS[:3])) == ""


def test_a_teacher_that_restores_nothing() -> None:
    assert "the clean teacher itself scores" in found(marks=landmarks(degraded_db=90.0))
    assert "these students learned nothing" not in found(marks=landmarks(degraded_db=90.0))


@pytest.mark.parametrize("degraded_db", [34.5, 31.0])
def test_students_that_learned_nothing(degraded_db: float) -> None:
    """31 dB lies within the interval of the best ones, 33 give or take 2.5."""
    expected = f"no student is shown to be better than the degraded input itself ({degraded_db:.2f} dB)"
    assert expected in found(marks=landmarks(degraded_db=degraded_db))


@pytest.mark.parametrize(
    ("gains", "told"), [((0.5, 0.0, 0.2), True), ((-1.0, -1.0, -1.0), True), ((0.5, 0.4, 0.6), False)]
)
def test_teachers_that_do_not_help(gains: tuple[float, ...], told: bool) -> None:
    """A gain within its own interval is none: 0.23 give or take 0.63."""
    scratch = [t for t in TRIALS if t.recipe == "scratch"]
    taught = [trial("output-l1", "clean", t.seed, t.psnr + gain) for t, gain in zip(scratch, gains, strict=True)]
    hardened = [trial("output-l1", "hardened", t.seed, t.psnr) for t in scratch]
    notes = found(board([*scratch, *taught, *hardened]))
    assert ("no recipe that asks the clean teacher is shown to beat training without it" in notes) == told


def test_one_seed_shows_no_difference() -> None:
    few = board([t for t in TRIALS if t.seed == 0]).model_copy(update={"seeds": 1})
    assert "one seed has no interval" in found(few)
