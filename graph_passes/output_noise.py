"""A prior defence: Gaussian noise on the output."""

from __future__ import annotations

import onnx
from onnx import helper

from kdguard.graph_passes.change_tensors import ChangeTensors


class OutputNoise(ChangeTensors):
    """Y = X + sigma n, n standard normal; a fresh draw for every run of a session."""

    def __init__(self, output: str, sigma: float, seed: int) -> None:
        """Set it up.

        Args:
            sigma: in units of the output.
        """
        super().__init__([output])
        self.sigma, self.seed = sigma, seed

    def nodes(self, clean: str, changed: str) -> list[onnx.NodeProto]:
        noise = f"{changed}/noise"
        return [
            helper.make_node("RandomNormalLike", [clean], [noise], scale=self.sigma, seed=float(self.seed)),
            helper.make_node("Add", [clean, noise], [changed]),
        ]
