"""Published teachers, each with all its operators, at sizes that are no powers of two."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from skimage import data

from kdguard.runtime.torch_graph import GraphModule
from tests.conftest import run_onnx

SIZES = {
    "denoising": (1, 1, 37, 45),
    "deraining": (2, 3, 25, 33),
    "dehazing": (1, 3, 36, 44),  # multiples of four
    "low-light": (1, 3, 37, 45),
    "super-resolution": (1, 3, 21, 27),
    "underwater": (1, 3, 129, 133),  # pools over 128 positions
}


@pytest.mark.parametrize("task", SIZES)
def test_teacher_agrees_with_onnxruntime_and_all_its_weights_get_gradients(zoo: Path, task: str) -> None:
    model = onnx.load(zoo / task / "teacher.onnx")
    n, channels, h, w = SIZES[task]
    photograph = data.astronaut()[:h, 180 : 180 + w, :channels].astype(np.float32) / 255
    image = np.repeat(photograph.transpose(2, 0, 1)[None], n, 0)
    expected = run_onnx(model, **{model.graph.input[0].name: image})[0]
    module = GraphModule(model)
    (restored,) = module(torch.from_numpy(image))
    assert restored.shape == expected.shape
    error = np.linalg.norm(restored.detach().numpy() - expected) / np.linalg.norm(expected)
    assert error <= 1e-5
    restored.square().mean().backward()
    weights = dict(module.named_weights())
    assert all(weight.grad is not None for weight in weights.values())
    learned = {t.name for t in model.graph.initializer if t.data_type == onnx.TensorProto.FLOAT and t.dims}
    assert weights.keys() == learned
