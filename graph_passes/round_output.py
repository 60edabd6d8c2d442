"""A prior defence: the output rounded to few levels."""

from __future__ import annotations

import onnx
from onnx import helper

from kdguard.graph_passes.change_tensors import ChangeTensors, constant


class RoundOutput(ChangeTensors):
    """Y = step round(X / step)."""

    def __init__(self, output: str, step: float) -> None:
        """Set it up.

        Args:
            step: between levels, in units of the output.
        """
        super().__init__([output])
        self.step = step

    def nodes(self, clean: str, changed: str) -> list[onnx.NodeProto]:
        step, levels, rounded = (f"{changed}/{name}" for name in ("step", "levels", "rounded"))
        return [
            *constant(step, self.step, clean),
            helper.make_node("Div", [clean, step], [levels]),
            helper.make_node("Round", [levels], [rounded]),
            helper.make_node("Mul", [rounded, step], [changed]),
        ]
