"""Walking a graph together with the bodies of its If, Loop and Scan nodes."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import onnx


def subgraphs(node: onnx.NodeProto) -> Iterator[onnx.GraphProto]:
    """The graphs in a node's attributes."""
    for attribute in node.attribute:
        if attribute.type == onnx.AttributeProto.GRAPH:
            yield attribute.g
        yield from attribute.graphs


def with_bodies(graph: onnx.GraphProto) -> Iterator[onnx.GraphProto]:
    """The graph and all bodies inside it."""
    yield graph
    for node in graph.node:
        for body in subgraphs(node):
            yield from with_bodies(body)


def nodes_with_bodies(nodes: Iterable[onnx.NodeProto]) -> Iterator[onnx.NodeProto]:
    """The nodes and those of all bodies inside them."""
    for node in nodes:
        yield node
        for body in subgraphs(node):
            yield from nodes_with_bodies(body.node)
