"""Published teachers (skipped where the zoo is absent): paired insertion at several depths is exact."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from kdguard.export.image_pairs import load_pairs
from kdguard.export.onnx_files import load_onnx
from kdguard.export.tasks import get_task
from kdguard.graph_passes.insert_svd_perturb import InsertSvdPerturb
from kdguard.graph_passes.layers import find_layers
from kdguard.graph_passes.op import SvdPerturbAttributes
from kdguard.runtime.metrics import psnr
from kdguard.runtime.resolve_card import resolve_card
from kdguard.runtime.session import RestorationSession

LAYERS = {
    "super-resolution": 3,
    "deraining": 3,
    "dehazing": 3,
    "denoising": 3,
    "low-light": 3,
    "underwater": 3,
}


@pytest.mark.parametrize("task", LAYERS)
def test_paired_is_exact_on_a_published_teacher(zoo: Path, task: str) -> None:
    teacher = load_onnx(zoo / task / "teacher.onnx")
    layers = [layer for layer in find_layers(teacher) if layer.op_type == "Conv"]
    chosen = [layers[i].name for i in np.linspace(0, len(layers) - 1, LAYERS[task] + 2).astype(int)[1:-1]]
    hardened = InsertSvdPerturb(chosen, SvdPerturbAttributes(gain=10.0))(teacher).model
    card = resolve_card(teacher, task)
    pair = load_pairs(zoo / task / "test", get_task(task), card.channels, card.scale)[0]
    degraded = pair.degraded[:128, :128]
    clean, output = (RestorationSession(model, card).restore(degraded) for model in (teacher, hardened))
    assert psnr(output, clean, get_task(task), card.scale, clip=False) >= 110
