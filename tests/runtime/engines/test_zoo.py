"""Every published teacher (skipped without the zoo), hardened by the defaults, becomes an engine of free sizes."""

from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image as PilImage

from kdguard.export.onnx_files import load_onnx
from kdguard.export.tasks import TASKS
from kdguard.runtime.engines import ENGINES
from kdguard.runtime.engines.build import build_engine
from kdguard.runtime.engines.manifest import read_manifest
from kdguard.runtime.engines.options import BuildOptions
from kdguard.runtime.engines.shapes import Size, SizeRange
from kdguard.runtime.harden import HardenOptions, harden
from kdguard.runtime.resolve_card import resolve_card

SIDE, CROPS = 96, 4


@pytest.mark.slow
@pytest.mark.parametrize("task", TASKS)
def test_a_published_teacher_becomes_an_engine(zoo: Path, tmp_path: Path, task: str) -> None:
    pytest.importorskip("tensorrt_rtx")
    (tmp_path / "data" / "clean").mkdir(parents=True)
    for path in sorted((zoo / "train").iterdir())[:CROPS]:
        with PilImage.open(path) as photograph:
            photograph.crop((0, 0, SIDE, SIDE)).save(tmp_path / "data" / "clean" / f"{path.stem}.png")
    hardened = tmp_path / "hardened.onnx"
    manifest = harden(zoo / task / "teacher.onnx", hardened, HardenOptions(), task=task, data=tmp_path / "data")
    assert manifest.layers
    model = load_onnx(hardened)
    card = resolve_card(model, task)
    sizes = SizeRange(Size(64, 64), Size(256, 256), Size(720, 1280))
    for precision, kind in (("as-is", "fp32"), ("fp16", "fp16")):
        engine = tmp_path / f"{kind}.engine"
        build_engine(hardened, model, card, engine, ENGINES["tensorrt-rtx"], sizes, BuildOptions(precision))  # type: ignore[arg-type]
        found = read_manifest(engine)
        assert found.precision == kind
        (image,) = [tensor for tensor in found.inputs if tensor.name == card.input_name]
        assert image.shape == [-1, card.channels, -1, -1]
        (restored,) = [tensor for tensor in found.outputs if tensor.name == card.output_name]
        assert restored.shape[-2:] == [-1, -1]
