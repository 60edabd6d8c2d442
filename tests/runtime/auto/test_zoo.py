"""A published teacher (skipped where the zoo is absent): hardened on a few crops, it keeps the gates on others."""

from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image as PilImage

from kdguard.export.image_pairs import load_pairs
from kdguard.export.onnx_files import load_onnx
from kdguard.export.tasks import get_task
from kdguard.runtime.analysis.crops import centre_crop
from kdguard.runtime.fidelity import measure_fidelity
from kdguard.runtime.harden import HardenOptions, harden
from kdguard.runtime.resolve_card import resolve_card
from kdguard.runtime.session import RestorationSession

TASK, SIDE, CROPS, UNSEEN = "underwater", 96, 8, 2


@pytest.mark.slow
def test_a_published_teacher_keeps_the_gates_on_images_it_was_not_calibrated_on(zoo: Path, tmp_path: Path) -> None:
    teacher = zoo / TASK / "teacher.onnx"
    model, task = load_onnx(teacher), get_task(TASK)
    card = resolve_card(model, TASK)
    (tmp_path / "data" / "clean").mkdir(parents=True)
    for path in sorted((zoo / "train").iterdir())[:CROPS]:
        with PilImage.open(path) as photograph:
            photograph.crop((0, 0, SIDE, SIDE)).save(tmp_path / "data" / "clean" / f"{path.stem}.png")
    manifest = harden(teacher, tmp_path / "h.onnx", HardenOptions(), task=TASK, data=tmp_path / "data")
    assert manifest.strip is not None
    assert {entry.placement for entry in manifest.layers} >= {"paired"}
    assert all((entry.relative_distortion or 0) > 0.05 for entry in manifest.layers)
    sessions = RestorationSession(model, card), RestorationSession(load_onnx(tmp_path / "h.onnx"), card)
    pairs = load_pairs(zoo / TASK / "test", task, card.channels, card.scale, limit=UNSEEN)
    unseen = [centre_crop(pair, card, 2 * SIDE) for pair in pairs]
    report, _ = measure_fidelity(*sessions, unseen, TASK)
    assert report.within_budget, report.failures()
