"""What a scoreboard does not show: runs that compare the wrong files, or students that learned nothing."""

from __future__ import annotations

from kdguard.runtime.red_team.scoreboard import Scoreboard
from kdguard.runtime.wording import number


def remarks(board: Scoreboard) -> list[str]:
    """One line each, what to do included; none where the figures can be taken as they are."""
    return [*_about_models(board), *_about_students(board)]


def _about_models(board: Scoreboard) -> list[str]:
    setting, landmarks = board.setting, board.landmarks
    if setting is None or landmarks is None:
        return []
    if setting.teacher_sha256 == setting.hardened_sha256:
        return ["both files hold the same model: no drop is to be expected; give the hardened one first"]
    lines = []
    if not setting.hardened_layers:
        lines.append("the hardened file holds no layer that kdguard hardened; is it the right one?")
    elif board.tap is not None and board.tap not in setting.hardened_layers:
        lines.append(
            f"the tap {board.tap!r} is no hardened layer: feature recipes read what nothing misleads; hardened are "
            f"{', '.join(setting.hardened_layers)}"
        )
    if landmarks.failures:
        reasons = "; ".join(landmarks.failures)
        lines.append(f"on the test images {reasons}: is it made from this teacher? See `kdguard verify`")
    return lines


def _about_students(board: Scoreboard) -> list[str]:
    best = board.best_response
    if best is None:
        if all(entry.tier == "control" for entry in board.summary):
            return []
        return ["every student of one side diverged, so nothing is compared; give smaller --learning-rates"]
    lines, landmarks = [], board.landmarks
    reached = max(best.clean.psnr, best.hardened.psnr)
    if landmarks is not None and reached < landmarks.degraded.psnr:
        lines.append(
            f"no student is better than the degraded input itself ({number(landmarks.degraded.psnr)} dB): these "
            "students learned nothing worth comparing; give more --steps, more data or a larger --size"
        )
    elif board.controls_lead:
        lines.append(
            "no recipe that asks the teacher beats training without it: this run says nothing about what hardening "
            "does; give more --steps, less data or more seeds"
        )
    return lines
