"""Does the exported file answer as the torch module does? Asked on photographs, not on noise."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import onnx

from kdguard.export.errors import GateFailedError, UserError, first_line
from kdguard.export.image_tensor import image_to_tensor
from kdguard.export.model_card import ModelCard
from kdguard.export.tasks import Image, get_task

if TYPE_CHECKING:
    from torch import nn


def sample_images(task: str | None, channels: int) -> list[Image]:
    """Photographs from scikit-image, degraded as the task says, for parity without user data.

    Uniform noise is no substitute: some published networks explode on it in every runtime. One has
    odd sides, so that a network which needs a size multiple shows it.
    """
    from skimage import data

    images = []
    for index, (name, size) in enumerate((("astronaut", (96, 128)), ("coffee", (83, 71)))):
        clean = getattr(data, name)()[100 : 100 + size[0], 100 : 100 + size[1]].astype(np.float32) / 255
        if channels == 1:
            clean = clean.mean(axis=-1, keepdims=True)
        images.append(clean if task is None else get_task(task).degrade(clean, np.random.default_rng(index)))
    return images


def run_torch(model: nn.Module, tensor: np.ndarray, card: ModelCard) -> np.ndarray:
    """The module's own answer.

    Raises:
        UserError: it raises, or returns something other than one 4-D tensor.
    """
    import torch

    shape = list(tensor.shape)
    try:
        with torch.no_grad():
            output = model(torch.from_numpy(tensor.copy()))  # the module may work in place
    except Exception as error:
        raise UserError(
            f"the torch model fails on an input of shape {shape}: {first_line(error)}; do --channels "
            f"({card.channels}), --layout ({card.layout}) and --size-multiple ({card.size_multiple}) fit it?"
        ) from error
    if not isinstance(output, torch.Tensor) or output.ndim != 4:
        raise UserError(
            f"the torch model answers an input of shape {shape} with {type(output).__name__}, not with one 4-D "
            "tensor; wrap it so that it returns the restored image only"
        )
    return output.float().numpy()


def measure_parity(
    exported: onnx.ModelProto, card: ModelCard, images: list[Image], answers: list[np.ndarray]
) -> tuple[int, float]:
    """Scale found, and the worst difference to torch as a share of the value range; NaN is infinite.

    Args:
        answers: of the torch module to each image, from `run_torch`.
    """
    import onnxruntime

    session = onnxruntime.InferenceSession(exported.SerializeToString(), providers=["CPUExecutionProvider"])
    worst, scales = 0.0, set()
    for image, expected in zip(images, answers, strict=True):
        tensor = image_to_tensor(image, card)
        try:
            (actual,) = session.run([card.output_name], {card.input_name: tensor})
        except Exception as error:
            raise GateFailedError(
                f"parity failed: onnxruntime cannot run the export on an input of shape {list(tensor.shape)}: "
                f"{first_line(error)}"
            ) from error
        if actual.shape != expected.shape:
            raise GateFailedError(
                f"parity failed on an input of shape {list(tensor.shape)}: torch gives {list(expected.shape)}, "
                f"onnxruntime {list(actual.shape)}; the output size depends on the input in a way the export froze"
            )
        scales |= {actual.shape[axis] / tensor.shape[axis] for axis in card.spatial_axes}
        difference = float(np.abs(actual - expected).max())
        worst = max(worst, difference if np.isfinite(difference) else np.inf)
    (scale, *others) = sorted(scales)
    if others or scale < 1 or scale != int(scale):
        raise UserError(
            f"the model's output is {sorted(scales)} times its input; kdguard needs one whole factor, 1 or "
            "more; a network that rounds odd sizes up needs --size-multiple"
        )
    low, high = card.value_range
    return int(scale), worst / (high - low)
