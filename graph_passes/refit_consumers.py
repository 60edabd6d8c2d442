"""New weights for the convolutions that read one feature map, and finding the maps where that is possible."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper, numpy_helper
from onnx.external_data_helper import uses_external_data

from kdguard.graph_passes.layers import CLEAN_SUFFIX, NAME_PREFIX, count_consumers
from kdguard.graph_passes.pass_base import GraphPass, PassResult, PreconditionError


@dataclass(frozen=True)
class ConvReader:
    """A 2-D convolution that reads a feature map.

    Attributes:
        output: name of its output, which identifies the node.
        weight: [O, C / group, kh, kw] float64.
        bias: [O] float64, zeros where the node has none.
        pads: top, left, bottom, right.
    """

    output: str
    weight: NDArray[np.float64]
    bias: NDArray[np.float64]
    strides: tuple[int, int]
    pads: tuple[int, int, int, int]
    dilations: tuple[int, int]
    group: int

    @property
    def geometry(self) -> tuple[object, ...]:
        """Readers with the same one see the same patches."""
        return self.weight.shape[2:], self.strides, self.pads, self.dilations


def conv_readers(model: onnx.ModelProto, layer: str) -> list[ConvReader] | None:
    """The readers of a tensor, or None where one of them is not a 2-D convolution with constant weights.

    Readers inside If or Loop bodies are none, so such a layer gives None as well; so do those whose
    weights stayed in a data file.
    """
    constants = _constants(model)
    found = []
    for node in model.graph.node:
        if layer in node.input and (reader := _as_conv(node, layer, constants)):
            found.append(reader)
    total = count_consumers(model.graph.node)[layer]
    is_output = any(value.name == layer for value in model.graph.output)
    return found if found and len(found) == total and not is_output else None


def _constants(model: onnx.ModelProto) -> dict[str, onnx.TensorProto]:
    constants = {tensor.name: tensor for tensor in model.graph.initializer if not uses_external_data(tensor)}
    overridable = {value.name for value in model.graph.input}
    for node in model.graph.node:
        if node.op_type == "Constant" and node.attribute and node.attribute[0].HasField("t"):
            constants[node.output[0]] = node.attribute[0].t
    return {name: tensor for name, tensor in constants.items() if name not in overridable}


def _as_conv(node: onnx.NodeProto, layer: str, constants: Mapping[str, onnx.TensorProto]) -> ConvReader | None:
    if node.op_type != "Conv" or node.domain or node.input[0] != layer or list(node.input).count(layer) > 1:
        return None
    if node.input[1] not in constants or not all(name in constants for name in node.input[2:] if name):
        return None
    weight = numpy_helper.to_array(constants[node.input[1]])
    attributes = {a.name: helper.get_attribute_value(a) for a in node.attribute}
    auto_pad = attributes.get("auto_pad", b"NOTSET")
    if weight.ndim != 4 or auto_pad not in (b"NOTSET", b"VALID"):
        return None
    has_bias = len(node.input) > 2 and node.input[2]
    bias = numpy_helper.to_array(constants[node.input[2]]) if has_bias else np.zeros(len(weight))
    strides, dilations = (tuple(attributes.get(name, (1, 1))) for name in ("strides", "dilations"))
    pads = (0, 0, 0, 0) if auto_pad == b"VALID" else tuple(attributes.get("pads", (0, 0, 0, 0)))
    return ConvReader(
        node.output[0],
        weight.astype(np.float64),
        bias.astype(np.float64),
        strides,
        pads,
        dilations,
        attributes.get("group", 1),
    )


class RefitConsumers(GraphPass):
    """Give convolutions weights and biases of their own.

    1. A convolution is named by its output tensor.
    2. Its new weights are new initializers, of the old ones' type: a weight that several nodes share,
       as in networks unrolled over time, stays as it is for the others.
    3. An old weight that nobody reads any more is removed.
    """

    def __init__(self, weights: Mapping[str, tuple[NDArray[np.floating], NDArray[np.floating]]]) -> None:
        """Take the new (weight [O, C / group, kh, kw], bias [O]) per output name."""
        self.weights = dict(weights)

    def call(self, model: onnx.ModelProto) -> PassResult:
        if not self.weights:
            return PassResult(model, modified=False)
        result = onnx.ModelProto()
        result.CopyFrom(model)
        nodes = {node.output[0]: node for node in result.graph.node if node.output}
        kinds = {tensor.name: tensor.data_type for tensor in _constants(model).values()}
        replaced: set[str] = set()
        for output, (weight, bias) in self.weights.items():
            node = nodes.get(output)
            if node is None or node.op_type != "Conv":
                raise PreconditionError(f"{output!r} is not the output of a convolution of this model")
            kind = onnx.helper.tensor_dtype_to_np_dtype(kinds.get(node.input[1], onnx.TensorProto.FLOAT))
            names = [_fresh(result, f"{node.input[1]}_{output}"), _fresh(result, f"{node.input[1]}_{output}_bias")]
            for name, values in zip(names, (weight, bias), strict=True):
                result.graph.initializer.append(numpy_helper.from_array(values.astype(kind), name))
            replaced |= {*node.input[1:]}
            node.input[:] = [node.input[0], *names]
        used = count_consumers(result.graph.node)
        public = {value.name for value in (*result.graph.input, *result.graph.output)}
        kept = [t for t in result.graph.initializer if t.name not in replaced or used[t.name] or t.name in public]
        del result.graph.initializer[:]
        result.graph.initializer.extend(kept)
        return PassResult(result, modified=True)


def refitted_outputs(model: onnx.ModelProto) -> set[str]:
    """Outputs of the convolutions that `RefitConsumers` gave weights of their own, told by the weights' names."""
    return {node.output[0] for node in model.graph.node if node.op_type == "Conv" and _has_own_weights(node)}


def _has_own_weights(node: onnx.NodeProto) -> bool:
    if len(node.input) != 3:
        return False
    # Where the output was hardened afterwards, its name has gone to the changed map; see insert_svd_perturb.
    output = node.output[0].removeprefix(NAME_PREFIX).removesuffix(CLEAN_SUFFIX)
    stem, end = rf"(.*_(?:{re.escape(node.output[0])}|{re.escape(output)}))", r"(_\d+)?"
    weight, bias = re.fullmatch(stem + end, node.input[1]), re.fullmatch(f"{stem}_bias{end}", node.input[2])
    return weight is not None and bias is not None and weight[1] == bias[1]


def _fresh(model: onnx.ModelProto, wanted: str) -> str:
    taken = {tensor.name for tensor in model.graph.initializer} | {n for node in model.graph.node for n in node.output}
    name, count = wanted, 1
    while name in taken:
        name, count = f"{wanted}_{count}", count + 1
    return name
