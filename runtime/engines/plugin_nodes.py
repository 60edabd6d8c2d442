"""Which `TopKProjector` nodes of a model the plugin takes; the others are for the function."""

from __future__ import annotations

from dataclasses import dataclass

import onnx
from onnx import helper

from kdguard.export.graph_bodies import nodes_with_bodies
from kdguard.graph_passes.layers import infer_value_infos
from kdguard.graph_passes.op.attributes import DOMAIN, PLUGIN_NAMESPACE, PROJECTOR
from kdguard.runtime.engines.plugin import fits

NAMESPACE = "plugin_namespace"


@dataclass(frozen=True)
class Division:
    """A model whose nodes say what runs them.

    Attributes:
        plugin: number of nodes for the plugin.
        function: number of nodes for the function.
    """

    model: onnx.ModelProto
    plugin: int
    function: int


def divide(model: onnx.ModelProto) -> Division:
    """Name the plugin's namespace on nodes that its kernel can work on, and on no others.

    TensorRT's parser then takes the plugin; where a node names no namespace it takes the function of the model.
    """
    changed = onnx.ModelProto()
    changed.CopyFrom(model)
    values = infer_value_infos(changed) | {value.name: value for value in changed.graph.input}
    taken, every = (
        0,
        [node for node in nodes_with_bodies(changed.graph.node) if (node.domain, node.op_type) == (DOMAIN, PROJECTOR)],
    )
    for node in every:
        suitable = _fits(node, values.get(node.input[0]))
        kept = [attribute for attribute in node.attribute if attribute.name != NAMESPACE]
        del node.attribute[:]
        node.attribute.extend(kept)
        if suitable:
            node.attribute.append(helper.make_attribute(NAMESPACE, PLUGIN_NAMESPACE))
            taken += 1
    return Division(changed, taken, len(every) - taken)


def _fits(node: onnx.NodeProto, gram: onnx.ValueInfoProto | None) -> bool:
    """A Gram matrix in float32 of a known, small enough number of channels."""
    if gram is None or gram.type.tensor_type.elem_type != onnx.TensorProto.FLOAT:
        return False
    sides = [side.dim_value for side in gram.type.tensor_type.shape.dim]
    rank = next((attribute.i for attribute in node.attribute if attribute.name == "rank"), 0)
    return len(sides) == 3 and sides[1] > 0 and rank > 0 and fits(sides[1], rank)
