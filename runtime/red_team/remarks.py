"""What a scoreboard does not show: runs that compare the wrong files, or students that learned nothing."""

from __future__ import annotations

import numpy as np

from kdguard.runtime.red_team.interval import interval95
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
        lines.append(
            "the hardened file holds no layer that kdguard hardened: right for one that `kdguard baseline` made"
        )
    elif board.tap is not None and board.tap not in setting.hardened_layers:
        lines.append(
            f"the tap {board.tap!r} is no hardened layer: feature recipes read what nothing misleads; hardened are "
            f"{', '.join(setting.hardened_layers)}"
        )
    if landmarks.failures:
        reasons = "; ".join(landmarks.failures)
        lines.append(
            f"fidelity on the test images: {reasons}; either they are unlike the calibration images, or the file is "
            "made from another teacher (`kdguard verify`)"
        )
    return lines


def _about_students(board: Scoreboard) -> list[str]:
    best = board.best_response
    if best is None:
        if not any(entry.compared for entry in board.summary):
            return []
        return ["every student of one side diverged, so nothing is compared; give smaller --learning-rates"]
    lines, landmarks = [], board.landmarks
    better = max(board.entry(best.clean.recipe).clean, board.entry(best.hardened.recipe).hardened, key=lambda g: g.psnr)
    if landmarks is not None and landmarks.clean.psnr < landmarks.degraded.psnr:
        lines.append(
            f"the clean teacher itself scores {number(landmarks.clean.psnr)} dB, below the degraded input "
            f"({number(landmarks.degraded.psnr)} dB): is it the right task, value range and trained model?"
        )
    elif landmarks is not None and better.psnr - (better.ci95 or 0) < landmarks.degraded.psnr:
        lines.append(
            f"no student is shown to be better than the degraded input itself ({number(landmarks.degraded.psnr)} dB): "
            "these students learned nothing worth comparing; give more --steps, more data or a larger --size"
        )
    elif _controls_lead(board):
        lines.append(
            "no recipe that asks the clean teacher is shown to beat training without it, so this run says nothing "
            "about what hardening does to one that helps; give more --steps, less data or more seeds"
        )
    if board.seeds == 1:
        lines.append("one seed has no interval: a difference may be chance; three seeds are the least")
    return lines


def _controls_lead(board: Scoreboard) -> bool:
    """Whether scratch ran, and no recipe's students of the clean teacher beat it by more than their interval."""
    scratch = {row.seed: row.psnr for row in board.rows if row.source == "none"}
    asking = {row.recipe for row in board.rows if row.source == "clean"} - {
        e.recipe for e in board.summary if e.clean.diverged
    }
    if not scratch or not asking:
        return False

    def beats(recipe: str) -> bool:
        rows = [row for row in board.rows if (row.recipe, row.source) == (recipe, "clean")]
        gains = [row.psnr - scratch[row.seed] for row in rows if row.seed in scratch]
        return bool(gains) and float(np.mean(gains)) > (interval95(gains) or 0)

    return not any(beats(recipe) for recipe in asking)
