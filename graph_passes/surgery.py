"""Graph surgery with onnx-graphsurgeon that loses nothing.

graphsurgeon rewires well, but its export drops what it has no place for: metadata_props, doc
strings and overloads of nodes, inputs that have default values, attribute types it does not know.
So it only ever sees a skeleton without weights, and what it decided (which node reads and writes
which tensor) is copied back onto the original nodes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

import onnx
import onnx_graphsurgeon as gs

Edit = Callable[[gs.Graph], Sequence[gs.Node]]
"""Changes a graph in place and returns the nodes it added; it may not remove or reorder any."""


def _skeleton(model: onnx.ModelProto) -> onnx.ModelProto:
    """The model without its initializers, so that surgery never touches the weights."""
    skeleton = onnx.ModelProto(ir_version=model.ir_version)
    skeleton.opset_import.extend(model.opset_import)
    skeleton.graph.name = model.graph.name
    skeleton.graph.node.extend(model.graph.node)
    skeleton.graph.input.extend(model.graph.input)
    skeleton.graph.output.extend(model.graph.output)
    return skeleton


def _copy_connections(original: onnx.NodeProto, edited: onnx.NodeProto) -> onnx.NodeProto:
    """The original node, subgraphs included, connected as the edited one is."""
    node = onnx.NodeProto()
    node.CopyFrom(original)
    node.input[:] = edited.input
    node.output[:] = edited.output
    bodies = {a.name: a.g for a in edited.attribute if a.type == onnx.AttributeProto.GRAPH}
    for attribute in node.attribute:
        if attribute.type == onnx.AttributeProto.GRAPH:
            inner = [
                _copy_connections(before, after)
                for before, after in zip(attribute.g.node, bodies[attribute.name].node, strict=True)
            ]
            del attribute.g.node[:]
            attribute.g.node.extend(inner)
    return node


def rewire(model: onnx.ModelProto, edit: Edit, initializers: Iterable[onnx.TensorProto] = ()) -> onnx.ModelProto:
    """A copy of `model` with its main graph edited and everything else untouched.

    Args:
        edit: inserts nodes and changes connections.
        initializers: constants that the new nodes need.
    """
    # It warns about types that NumPy lacks, and about its own optional packages; neither matters here.
    gs.logger.G_LOGGER.severity = gs.logger.G_LOGGER.ERROR
    graph = gs.import_onnx(_skeleton(model))
    added = {id(node) for node in edit(graph)}
    is_new = [id(node) in added for node in graph.nodes]
    exported = gs.export_onnx(graph, do_type_check=False).graph.node
    originals = iter(model.graph.node)
    nodes = [
        node if new else _copy_connections(next(originals), node) for node, new in zip(exported, is_new, strict=True)
    ]
    assert next(originals, None) is None, "an edit may not remove nodes"
    result = onnx.ModelProto()
    result.CopyFrom(model)
    del result.graph.node[:]
    result.graph.node.extend(nodes)
    result.graph.initializer.extend(initializers)
    return result
