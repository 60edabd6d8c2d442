"""Which maps are eligible, and how they are picked."""

from __future__ import annotations

import numpy as np
import pytest
from onnx import helper, numpy_helper

from kdguard.export.errors import UserError
from kdguard.graph_passes.insert_svd_perturb import InsertSvdPerturb
from kdguard.graph_passes.layers import count_consumers, find_layers, find_obstacles, infer_value_infos, select_layers
from kdguard.graph_passes.op import SvdPerturbAttributes
from tests.conftest import make_conv_net
from tests.graph_passes.rich_model import make_rich_model


def test_conv_net_layers() -> None:
    layers = find_layers(make_conv_net())
    assert [(x.name, x.op_type, x.node, x.dtype, x.consumers) for x in layers] == [
        ("a", "Conv", "conv_a", "float32", 1),
        ("b", "Relu", "relu_b", "float32", 2),
        ("c", "Conv", "conv_c", "float32", 1),
        ("d", "Add", "add_d", "float32", 1),
        ("tail", "Conv", "conv_tail", "float32", 1),
    ]
    assert layers[0].shape == ("n", 8, None, None)


def test_graph_outputs_and_inputs_are_left_alone() -> None:
    assert not {"restored", "image"} & {layer.name for layer in find_layers(make_conv_net())}


def test_readers_inside_subgraphs_count() -> None:
    counts = count_consumers(make_rich_model().graph.node)
    assert counts["b"] == 3  # conv_c and both branches of the If
    assert counts["wc"] == 2


def test_outputs_of_if_loop_and_functions_are_eligible() -> None:
    layers = {layer.name: layer for layer in find_layers(make_rich_model())}
    assert {"chosen", "looped", "e"} <= layers.keys()
    assert layers["e"].op_type == "Scale"


def test_hardened_layers_keep_their_name_and_helpers_are_hidden() -> None:
    hardened = InsertSvdPerturb(["b"], SvdPerturbAttributes(gain=5.0))(make_conv_net()).model
    layers = {layer.name: layer for layer in find_layers(hardened)}
    assert list(layers) == ["a", "b", "c", "d", "tail"]
    assert layers["b"].hardened
    assert layers["b"].op_type == "Relu"


def test_globs_match_tensor_and_node_names_in_graph_order() -> None:
    layers = find_layers(make_conv_net())
    assert [x.name for x in select_layers(layers, ["conv_*"])] == ["a", "c", "tail"]
    assert [x.name for x in select_layers(layers, ["d", "a"])] == ["a", "d"]
    assert [x.name for x in select_layers(layers, ["d"], ["Relu"])] == ["b", "d"]
    assert [x.name for x in select_layers(layers, ["[ab]"])] == ["a", "b"]


def test_unnamed_nodes_do_not_match_empty_patterns() -> None:
    model = make_conv_net()
    for node in model.graph.node:
        node.name = ""
    assert [x.name for x in select_layers(find_layers(model), ["b"])] == ["b"]
    with pytest.raises(UserError, match="no layers asked for"):
        select_layers(find_layers(model), [""])
    with pytest.raises(UserError, match="matches none"):
        select_layers(find_layers(model), ["b", ""])


def test_single_channels_and_unread_tensors_are_left_out() -> None:
    model = make_conv_net()
    model.graph.node.append(helper.make_node("ReduceMean", ["d", "axis"], ["single"], keepdims=1))
    model.graph.node.append(helper.make_node("Relu", ["single"], ["single_read"]))
    model.graph.node.append(helper.make_node("Relu", ["d"], ["unread"]))
    model.graph.initializer.append(numpy_helper.from_array(np.array([1]), "axis"))
    assert [layer.name for layer in find_layers(model)] == ["a", "b", "c", "d", "tail"]


def test_what_cannot_be_hardened_says_why() -> None:
    model = make_rich_model()
    model.graph.node.append(helper.make_node("ReduceMean", ["d", "axis"], ["single"], "mean", keepdims=1))
    model.graph.node.append(helper.make_node("Shape", ["single"], ["sizes"], "shape"))
    model.graph.node.append(helper.make_node("Cast", ["sizes"], ["unread"], to=1))
    model.graph.node.append(helper.make_node("Mystery", ["d"], ["unknown"], domain="users"))
    model.graph.node.append(helper.make_node("Relu", ["unknown"], ["behind"]))
    model.graph.initializer.append(numpy_helper.from_array(np.array([1]), "axis"))
    layers, obstacles = find_layers(model), find_obstacles(model, infer_value_infos(model))
    for glob, why in {
        "image": "input of the model",
        "restored": "output of the model",
        "add_out": "output of the model",
        "unread": "nobody reads it",
        "sizes": "holds int64",
        "single": "single channel",
        "unknown": "does not find its shape",
        "inner": "inside the body of If node 'branch'",
        "inner_add": "inside the body of Loop node 'loop'",
    }.items():
        with pytest.raises(UserError, match=f"cannot be hardened: .*{why}"):
            select_layers(layers, [glob], obstacles=obstacles)
    assert not {layer.name for layer in layers} & obstacles.keys()
    with pytest.raises(UserError, match="matches none"):
        select_layers(layers, ["zzz"], obstacles=obstacles)
