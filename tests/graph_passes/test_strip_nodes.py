"""Deleting our nodes: the graph reads as if they had never been there."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx
import pytest
from onnx import TensorProto

from kdguard.graph_passes.insert_svd_perturb import InsertSvdPerturb, Site
from kdguard.graph_passes.layers import NAME_PREFIX, subgraphs
from kdguard.graph_passes.op import DOMAIN, SvdPerturbAttributes
from kdguard.graph_passes.strip_nodes import StripNodes
from tests.conftest import make_conv_net, photograph, run_onnx
from tests.graph_passes.rich_model import make_rich_model

GAIN = SvdPerturbAttributes(rank=2, gain=10.0)
IMAGE = (photograph(40).transpose(2, 0, 1)[None] / 255).astype(np.float32)
BOTH = [Site("b", GAIN, "in-path"), Site("d", GAIN, "paired")]


def half() -> onnx.ModelProto:
    return make_conv_net(dtype=TensorProto.FLOAT16)


def names(graph: onnx.GraphProto) -> set[str]:
    """Every tensor name of a graph, its bodies included."""
    found = {name for node in graph.node for name in (*node.input, *node.output)}
    found |= {entry.name for entries in (graph.initializer, graph.value_info, graph.output) for entry in entries}
    for node in graph.node:
        for inner in subgraphs(node):
            found |= names(inner)
    return found


@pytest.mark.parametrize("build", [make_conv_net, make_rich_model, half])
@pytest.mark.parametrize("placement", ["paired", "in-path"])
def test_what_was_inserted_is_gone_byte_for_byte(build: Callable[[], onnx.ModelProto], placement: str) -> None:
    model = build()
    hardened = InsertSvdPerturb(["b", "d"], GAIN, placement=placement)(model).model  # type: ignore[arg-type]
    before = hardened.SerializeToString(deterministic=True)
    result = StripNodes()(hardened)
    assert result.modified
    assert hardened.SerializeToString(deterministic=True) == before
    assert list(result.model.graph.node) == list(model.graph.node)
    assert list(result.model.functions) == list(model.functions)
    assert list(result.model.opset_import) == list(model.opset_import)
    assert result.model.SerializeToString(deterministic=True) == model.SerializeToString(deterministic=True)


def test_nothing_of_ours_is_left_where_placements_mix() -> None:
    model = make_rich_model()
    result = StripNodes()(InsertSvdPerturb(sites=BOTH)(model).model).model
    assert list(result.graph.node) == list(model.graph.node)
    assert not {name for name in names(result.graph) if name.startswith(NAME_PREFIX)}
    assert DOMAIN not in {entry.domain for entry in (*result.functions, *result.opset_import)}
    np.testing.assert_array_equal(run_onnx(result, image=IMAGE)[0], run_onnx(model, image=IMAGE)[0])


def test_bodies_read_the_layer_again() -> None:
    """If reads b in both branches, Loop reads d: deleting the restorer must not leave them dangling."""
    result = StripNodes()(InsertSvdPerturb(["b", "d"], GAIN)(make_rich_model()).model).model
    branch, loop = (next(n for n in result.graph.node if n.op_type == kind) for kind in ("If", "Loop"))
    assert [list(body.node[0].input) for body in subgraphs(branch)] == [["b"], ["b"]]
    assert next(iter(subgraphs(loop))).node[0].input[1] == "d"


@pytest.mark.parametrize("build", [make_conv_net, make_rich_model])
def test_a_clean_model_is_handed_back(build: Callable[[], onnx.ModelProto]) -> None:
    model = build()
    result = StripNodes()(model)
    assert not result.modified
    assert result.model is model
    once = StripNodes()(InsertSvdPerturb(["b"], GAIN)(model).model).model
    assert not StripNodes()(once).modified
