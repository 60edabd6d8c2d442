"""Old models on their way to hardening: converted to an opset that has what the op needs, and compared."""

from __future__ import annotations

import numpy as np
import onnx

from kdguard.export.errors import GateFailedError
from kdguard.export.image_tensor import image_to_tensor
from kdguard.export.model_card import ModelCard
from kdguard.export.onnx_files import default_opset
from kdguard.export.parity import sample_images
from kdguard.export.upgrade_opset import TARGET_OPSET, upgrade_opset
from kdguard.graph_passes.op import MIN_OPSET
from kdguard.runtime.session import RestorationSession
from kdguard.runtime.side_by_side import side_by_side

TOLERANCE = {"tensor(float16)": 1e-2}
"""Share of the value range by input type: fp16 keeps 11 bits, and converted layers may round in another order."""
DEFAULT_TOLERANCE = 1e-4


def needs_upgrade(model: onnx.ModelProto) -> bool:
    """Whether the op cannot be put into the model as it is."""
    return default_opset(model) < MIN_OPSET


def upgrade_checked(model: onnx.ModelProto, card: ModelCard, where: str = "the model") -> onnx.ModelProto:
    """The model at opset `TARGET_OPSET`, after comparing both on photographs in onnxruntime.

    Raises:
        UserError: it cannot be converted without loss.
        GateFailedError: the converted model answers differently.
    """
    upgraded = upgrade_opset(model, where)
    images = [image_to_tensor(image, card) for image in sample_images(card.task, card.channels)]
    sessions = [RestorationSession(candidate, card) for candidate in (model, upgraded)]
    tolerance = TOLERANCE.get(sessions[0].input_type, DEFAULT_TOLERANCE)
    low, high = card.value_range
    for before, after in side_by_side(sessions, images, lambda session, image: session.run(image)[0]):
        worst = float(np.abs(after - before).max()) if before.shape == after.shape else float("inf")
        if not worst <= tolerance * max(high - low, float(np.abs(before).max())):
            raise GateFailedError(
                f"{where}: onnx's converter changes what the model does on the way from opset {default_opset(model)} "
                f"to {TARGET_OPSET} (worst difference {worst:.2g}); export it again with opset {TARGET_OPSET} or newer"
            )
    return upgraded
