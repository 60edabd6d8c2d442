"""One model that can perturb any of many layers, chosen per run: measuring layers without one export each."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from kdguard.graph_passes.insert_svd_perturb import import_op
from kdguard.graph_passes.layers import NAME_PREFIX
from kdguard.graph_passes.op import DOMAIN, SvdPerturbAttributes
from kdguard.graph_passes.op.attributes import PERTURB
from kdguard.graph_passes.pass_base import GraphPass, PassResult

STRENGTHS = f"{NAME_PREFIX}strengths"
"""Name of the further input: one strength in [0, 1] per layer, float32 [L]; zeros leave the model as it was."""


class ProbeLayers(GraphPass):
    """Put an in-path `SvdPerturb` behind every given layer, each driven by its own entry of one input.

    A layer whose strength is 0 costs nothing: the op stands in a branch that is not taken.
    """

    def __init__(self, layers: Mapping[str, SvdPerturbAttributes]) -> None:
        """Take the layers in the order of the input's entries, each with its op."""
        self.layers = dict(layers)

    def call(self, model: onnx.ModelProto) -> PassResult:
        result = onnx.ModelProto()
        result.CopyFrom(model)
        graph = result.graph
        position = {name: index for index, name in enumerate(self.layers)}
        nodes: list[onnx.NodeProto] = []
        for node in model.graph.node:
            copy = graph.node.add()
            copy.CopyFrom(node)
            nodes.append(copy)
            for slot, name in enumerate(node.output):
                if name in position:
                    copy.output[slot] = f"{NAME_PREFIX}{name}/in"
                    nodes += self._switch(name, position[name])
        kept = [onnx.NodeProto.FromString(node.SerializeToString()) for node in nodes]
        del graph.node[:]
        graph.node.extend(kept)
        graph.input.append(helper.make_tensor_value_info(STRENGTHS, TensorProto.FLOAT, [len(self.layers)]))
        graph.initializer.append(numpy_helper.from_array(np.array(0, np.float32), f"{NAME_PREFIX}zero"))
        import_op(result, exact_change=False)
        return PassResult(result, modified=True)

    def _switch(self, layer: str, index: int) -> list[onnx.NodeProto]:
        """strengths[index] > 0 ? SvdPerturb(layer) : layer."""
        clean, strength, wanted = (f"{NAME_PREFIX}{layer}/{part}" for part in ("in", "strength", "wanted"))
        on, off = (f"{NAME_PREFIX}{layer}/{part}" for part in ("on", "off"))
        empty = [helper.make_empty_tensor_value_info(name) for name in (on, off)]
        perturb = helper.make_node(PERTURB, [clean, strength], [on, ""], domain=DOMAIN)
        values = self.layers[layer].model_copy(update={"shared": False}).node_attributes().items()
        perturb.attribute.extend(helper.make_attribute(name, value) for name, value in values)
        branches = {
            "then_branch": helper.make_graph([perturb], "on", [], empty[:1]),
            "else_branch": helper.make_graph([helper.make_node("Identity", [clean], [off])], "off", [], empty[1:]),
        }
        which = numpy_helper.from_array(np.array(index, np.int64))
        return [
            helper.make_node("Constant", [], [f"{strength}/index"], value=which),
            helper.make_node("Gather", [STRENGTHS, f"{strength}/index"], [strength]),
            helper.make_node("Greater", [strength, f"{NAME_PREFIX}zero"], [wanted]),
            helper.make_node("If", [wanted], [layer], **branches),
        ]

    def ensures(self, result: PassResult, original: onnx.ModelProto) -> None:
        """A measuring instrument, never written to a file: running it is its check."""
