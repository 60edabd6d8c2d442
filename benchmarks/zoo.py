"""What the benchmarks on published teachers share: where they lie, what calibrates and what tests."""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import onnx

from kdguard.export.image_pairs import ImagePair, load_pairs
from kdguard.export.model_card import ModelCard
from kdguard.export.onnx_files import load_onnx
from kdguard.export.tasks import TASKS, get_task
from kdguard.runtime.resolve_card import resolve_card

ROOT = Path(__file__).parent.parent
ZOO = Path(os.environ.get("KDGUARD_ZOO", ROOT.parent / "shared" / "zoo"))
HARDENED = ROOT / "build" / "zoo"
"""Where benchmarks/zoo_harden.py leaves the hardened models for the other benchmarks."""
TEST_SEED = 1


def tasks(asked: Sequence[str] = ()) -> list[str]:
    """The tasks named on the command line, or all."""
    if not ZOO.is_dir():
        sys.exit(f"no published teachers at {ZOO}; set KDGUARD_ZOO")
    return list(asked) or list(TASKS)


def calibration_folder(scratch: Path) -> Path:
    """A data folder whose clean/ is the zoo's training images; tasks degrade them by themselves."""
    folder = scratch / "calibration"
    folder.mkdir()
    (folder / "clean").symlink_to(ZOO / "train")
    return folder


def calibration_pairs(task: str, card: ModelCard, limit: int | None = None) -> list[ImagePair]:
    """The zoo's training images, degraded by the task."""
    with tempfile.TemporaryDirectory() as scratch:
        folder = calibration_folder(Path(scratch))
        return load_pairs(folder, get_task(task), card.channels, card.scale, seed=0, limit=limit)


def open_hardened(task: str) -> tuple[onnx.ModelProto, ModelCard]:
    """The hardened model that benchmarks/zoo_harden.py left, and its card."""
    path = HARDENED / f"{task}.onnx"
    if not path.is_file():
        sys.exit(f"{path} is not there; run benchmarks/zoo_harden.py first")
    model = load_onnx(path)
    return model, resolve_card(model, task)


def test_pairs(task: str, card: ModelCard) -> list[ImagePair]:
    """The published test pairs, which no calibration sees."""
    return load_pairs(ZOO / task / "test", get_task(task), card.channels, card.scale, TEST_SEED)
