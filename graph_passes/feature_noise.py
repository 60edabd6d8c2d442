"""A prior defence: Gaussian noise on feature maps."""

from __future__ import annotations

from collections.abc import Sequence

import onnx
from onnx import helper

from kdguard.graph_passes.change_tensors import ChangeTensors, constant


class FeatureNoise(ChangeTensors):
    """Y = X + sigma rms(X) n, n standard normal; a fresh draw for every run of a session."""

    def __init__(self, layers: Sequence[str], sigma: float, seed: int) -> None:
        """Set it up.

        Args:
            sigma: in units of the map's root mean square.
        """
        super().__init__(layers)
        self.sigma, self.seed = sigma, seed

    def nodes(self, clean: str, changed: str) -> list[onnx.NodeProto]:
        def own(name: str) -> str:
            return f"{changed}/{name}"

        # Equal seeds would draw the same noise at every layer.
        seed = float(self.seed * len(self.tensors) + self.tensors.index(changed))
        return [
            helper.make_node("RandomNormalLike", [clean], [own("noise")], seed=seed),
            helper.make_node("Mul", [clean, clean], [own("squares")]),
            # Without axes it reduces them all, in every opset.
            helper.make_node("ReduceMean", [own("squares")], [own("mean")], keepdims=0),
            helper.make_node("Sqrt", [own("mean")], [own("rms")]),
            *constant(own("sigma"), self.sigma, clean),
            helper.make_node("Mul", [own("rms"), own("sigma")], [own("scale")]),
            helper.make_node("Mul", [own("noise"), own("scale")], [own("scaled")]),
            helper.make_node("Add", [clean, own("scaled")], [changed]),
        ]
