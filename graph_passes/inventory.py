"""What kdguard has put into a model, read back from the model itself."""

from __future__ import annotations

from dataclasses import dataclass

import onnx

from kdguard.graph_passes.op.attributes import DOMAIN, PERTURB, RESTORE, SvdPerturbAttributes


@dataclass(frozen=True)
class HardenedLayer:
    """One protected layer.

    Attributes:
        layer: public name of the feature map, which the perturbed tensor carries.
        op_type: operator that produces the clean map.
        placement: `in-path` or `paired`; compensated layers are in-path to the graph.
        attributes: of its `SvdPerturb` node.
        nodes: names of the kdguard nodes.
    """

    layer: str
    op_type: str
    placement: str
    attributes: dict[str, object]
    nodes: tuple[str, ...]

    @property
    def op(self) -> SvdPerturbAttributes:
        """The attributes, typed: what it takes to insert the same node again."""
        own = {name: value for name, value in self.attributes.items() if name != "plugin_namespace"}
        return SvdPerturbAttributes.model_validate(own)


def hardened_layers(model: onnx.ModelProto) -> list[HardenedLayer]:
    """Every hardened layer of the main graph, in graph order."""
    producers = {name: node for node in model.graph.node for name in node.output if name}
    restorers = {n.input[0]: n for n in model.graph.node if (n.domain, n.op_type) == (DOMAIN, RESTORE)}
    layers = []
    for node in model.graph.node:
        if (node.domain, node.op_type) != (DOMAIN, PERTURB):
            continue
        layer = node.output[0]
        restore = restorers.get(layer)
        source = producers.get(node.input[0])
        layers.append(
            HardenedLayer(
                layer=layer,
                op_type=source.op_type if source else "input",
                placement="paired" if restore else "in-path",
                attributes=_attributes(node),
                nodes=(node.name, restore.name) if restore else (node.name,),
            )
        )
    return layers


def _attributes(node: onnx.NodeProto) -> dict[str, object]:
    """A node's attributes, with the function's defaults where it states none."""
    values = {a.name: onnx.helper.get_attribute_value(a) for a in node.attribute}
    decoded = {name: value.decode() if isinstance(value, bytes) else value for name, value in values.items()}
    return SvdPerturbAttributes().node_attributes() | {"plugin_namespace": ""} | decoded
