"""Costs of small graphs, worked out by hand."""

from __future__ import annotations

from math import prod

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from kdguard.graph_passes.costs import (
    IN_PATH_PER_VALUE,
    PAIRED_PER_VALUE,
    PER_NODE,
    PER_OP,
    PER_VALUE,
    PER_VECTOR,
    UNFUSED,
    count_costs,
    estimated_ratio,
    op_cost,
    pair_cost,
)
from kdguard.graph_passes.insert_svd_perturb import InsertSvdPerturb, Site
from kdguard.graph_passes.op import SvdPerturbAttributes
from tests.awkward_graphs import contrib_operator
from tests.conftest import conv_weights, make_conv_net, make_model
from tests.graph_passes.rich_model import make_rich_model

SIZE = {"image": (1, 3, 10, 20)}
POSITIONS = 200


def single(kind: str, inputs: list[str], weights: dict[str, np.ndarray], **attributes: object) -> onnx.ModelProto:
    node = helper.make_node(kind, inputs, ["restored"], **attributes)
    return make_model([node], weights, output_shape=("n", "c", "h2", "w2"))


def test_conv_net_by_hand() -> None:
    """Three convolutions 3 -> 8 -> 8 -> 3, and six nodes that touch 3 or 8 channels each."""
    costs = count_costs(make_conv_net(), SIZE)
    products = [3 * 8 * 9 * POSITIONS, 0, 8 * 8 * 9 * POSITIONS, 0, 8 * 3 * 9 * POSITIONS, 0]
    channels = [3 + 8, 8 + 8, 8 + 8, 8 + 8 + 8, 8 + 3, 3 + 3 + 3]
    spent = np.cumsum([p + PER_VALUE * c * POSITIONS + PER_NODE for p, c in zip(products, channels, strict=True)])
    assert costs.total == pytest.approx(spent[-1])
    assert costs.depth == pytest.approx(
        dict(zip(["a", "b", "c", "d", "tail", "restored"], spent / spent[-1], strict=True))
    )
    assert costs.shapes["d"] == (1, 8, 10, 20)
    assert costs.shapes["restored"] == (1, 3, 10, 20)


@pytest.mark.parametrize(
    ("model", "expected"),
    [
        (single("Conv", ["image", "w"], {"w": conv_weights(0, 8, 3)}, strides=[2, 2], pads=[1] * 4), 8 * 50 * 27),
        (single("Conv", ["image", "w"], {"w": conv_weights(0, 6, 1)}, group=3, pads=[1] * 4), 6 * 200 * 9),
        (single("Conv", ["image", "w"], {"w": conv_weights(0, 8, 3)}), 8 * 8 * 18 * 27),
        (single("ConvTranspose", ["image", "w"], {"w": conv_weights(0, 3, 5)}, strides=[2, 2]), 600 * 5 * 9),
        (single("MatMul", ["image", "w"], {"w": np.ones((20, 7), np.float32)}), 3 * 10 * 7 * 20),
        (single("Add", ["image", "w"], {"w": np.ones((3, 1, 1), np.float32)}), 0),
    ],
)
def test_products_of_one_operator(model: onnx.ModelProto, expected: int) -> None:
    """What is left of the total without the node and the values that it touches; expected by hand."""
    costs = count_costs(model, SIZE)
    touched = prod(SIZE["image"]) + prod(costs.shapes["restored"])
    assert costs.total - PER_NODE - PER_VALUE * touched == expected


def test_weights_are_not_touched_values() -> None:
    wide = np.ones((3, 1, 1), np.float32)
    total = count_costs(single("Add", ["image", "w"], {"w": wide}), SIZE).total
    assert total == pytest.approx(PER_VALUE * (600 + 600) + PER_NODE)


def test_names_of_free_dimensions_do_not_stand_in_the_way() -> None:
    """Exporters write the symbols of every tensor into the file."""
    model = make_conv_net()
    for name in ("a", "b"):
        info = helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n", 8, "h", "w"])
        model.graph.value_info.append(info)
    before = model.SerializeToString()
    assert count_costs(model, SIZE).total == count_costs(make_conv_net(), SIZE).total
    assert model.SerializeToString() == before


def test_what_inference_does_not_know_counts_as_a_node() -> None:
    costs = count_costs(contrib_operator(), SIZE)
    assert "m" not in costs.shapes
    assert costs.depth["m"] > costs.depth["b"]
    assert costs.depth["restored"] == 1


def test_bodies_and_functions_do_not_break_it() -> None:
    costs = count_costs(make_rich_model(), SIZE)
    order = ["a", "b", "c", "d", "chosen", "looped", "e", "f", "tail", "restored"]
    depths = [costs.depth[name] for name in order]
    assert depths == sorted(depths)
    assert 0 < depths[0] < depths[-1] == 1


def test_a_pair_between_convolution_and_activation_costs_more() -> None:
    plain = op_cost(1000, 8, 2, paired=True)
    assert pair_cost(1000, 8, 2, "Conv", ["Relu"]) == UNFUSED * plain > plain
    for op_type, readers in (("Relu", ["Relu"]), ("Conv", ["Relu", "Add"]), ("Conv", ["Add"]), ("Conv", [])):
        assert pair_cost(1000, 8, 2, op_type, readers) == plain


def test_estimated_ratio_adds_up_the_nodes_that_are_there() -> None:
    """`a` lies between a convolution and its activation; `d` carries an in-path node."""
    model = make_conv_net()
    sites = [
        Site("a", SvdPerturbAttributes(rank=2, gain=10.0), "paired"),
        Site("b", SvdPerturbAttributes(rank=1, gain=10.0), "paired"),
        Site("d", SvdPerturbAttributes(rank=8, gain=2.0), "in-path"),
    ]
    hardened = InsertSvdPerturb(sites=sites)(model).model
    values = 8 * POSITIONS
    added = UNFUSED * op_cost(values, 8, 2, paired=True) + op_cost(values, 8, 1, paired=True)
    added += op_cost(values, 8, 8, paired=False)
    assert estimated_ratio(model, hardened, SIZE) == pytest.approx(1 + added / count_costs(model, SIZE).total)
    assert estimated_ratio(model, model, SIZE) == 1


def test_no_ratio_is_estimated_where_a_size_is_not_known() -> None:
    model = make_conv_net()
    hardened = InsertSvdPerturb(["b"], SvdPerturbAttributes(gain=10.0), placement="paired")(model).model
    with pytest.raises(ValueError, match="size of layer 'b' is not known"):
        estimated_ratio(model, hardened, {})


@pytest.mark.parametrize(("paired", "per_value"), [(True, PAIRED_PER_VALUE), (False, IN_PATH_PER_VALUE)])
def test_cost_of_an_op_by_hand(paired: bool, per_value: float) -> None:
    """10 channels: one product is 1000 multiply-adds, and every singular vector takes twenty."""
    assert op_cost(5000, 10, 1, paired=paired) == per_value * 5000 + PER_OP + PER_VECTOR + 20_000
    assert op_cost(5000, 10, 3, paired=paired) == per_value * 5000 + PER_OP + 3 * (PER_VECTOR + 20_000)


def test_a_pair_costs_more_than_a_perturbation_alone() -> None:
    """It restores before every reader as well."""
    assert op_cost(5000, 10, 1, paired=True) > op_cost(5000, 10, 1, paired=False)
