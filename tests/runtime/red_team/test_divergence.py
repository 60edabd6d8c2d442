"""Students whose loss or images become NaN or infinite."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from kdguard.export.image_pairs import ImagePair
from kdguard.runtime.recipes.output_l1 import OutputL1
from kdguard.runtime.red_team.material import store_test_set
from kdguard.runtime.red_team.trial import run_trial
from tests.conftest import photograph
from tests.runtime.red_team.test_training import make_trial, spoiling


def test_a_student_from_before_the_explosion_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As a thief would; without early stopping nothing was kept."""
    with monkeypatch.context() as patch:
        patch.setattr(OutputL1, "loss", spoiling(20, math.inf))
        kept = run_trial(make_trial(tmp_path, steps=40, recipe="output-l1"), 1)
    assert (kept.diverged, kept.diverged_at) == (False, 21)
    assert kept.psnr > 15
    monkeypatch.setattr(OutputL1, "loss", spoiling(20, math.inf))
    lost = run_trial(make_trial(tmp_path, steps=40, recipe="output-l1", early_stopping=False), 1)
    assert (lost.diverged, lost.diverged_at) == (True, 21)


def test_test_images_of_nan_are_divergence(tmp_path: Path) -> None:
    trial = make_trial(tmp_path, recipe="output-l1", steps=2)
    image = photograph(24).astype(np.float32) / 255
    broken = store_test_set([ImagePair("t", np.full_like(image, np.nan), image)], tmp_path)
    assert run_trial(replace(trial, test=broken), 1).diverged
    assert not run_trial(trial, 1).diverged
