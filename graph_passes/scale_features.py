"""A prior defence: all singular values of feature maps scaled alike, which is scaling the map."""

from __future__ import annotations

from collections.abc import Sequence

import onnx
from onnx import helper

from kdguard.graph_passes.change_tensors import ChangeTensors, constant


class ScaleFeatures(ChangeTensors):
    """Y = h X."""

    def __init__(self, layers: Sequence[str], gain: float) -> None:
        super().__init__(layers)
        self.gain = gain

    def nodes(self, clean: str, changed: str) -> list[onnx.NodeProto]:
        gain = f"{changed}/gain"
        return [*constant(gain, self.gain, clean), helper.make_node("Mul", [clean, gain], [changed])]
