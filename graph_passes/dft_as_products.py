"""Discrete Fourier transforms as matrix products, for runtimes without a DFT operator (TensorRT, TensorRT-RTX).

A transform of length L costs L^2 multiplications per row instead of L log L, which a GPU hardly notices at image sizes:
the products are of the size of a 1x1 convolution's with L channels.
"""

from __future__ import annotations

import math

import onnx
import onnx.parser
from onnx.helper import get_node_attr_value, make_node, make_opsetid

from kdguard.export.onnx_files import default_opset
from kdguard.graph_passes.layers import infer_value_infos
from kdguard.graph_passes.op.attributes import DOMAIN, VERSION
from kdguard.graph_passes.pass_base import GraphPass, PassResult, PreconditionError

AXIS_AS_INPUT_SINCE = 20


class DftAsProducts(GraphPass):
    """X W for DFT(X), with W of cosines and sines made in the graph, so that lengths stay free.

    1. Every DFT of the main graph becomes a call of a local function of standard operators, in fp32 inside.
    2. Angles are taken modulo the length in integers, so that they are exact for every length.
    3. One-sided inverses, which torch's `irfft` exports, give the real signal.
    """

    def requires(self, model: onnx.ModelProto) -> None:
        transforms = _transforms(model)
        values = _values(model) if transforms else {}
        for node in transforms:
            if _rank(node, values) == 0:
                raise PreconditionError(f"DFT {node.name!r}: the number of axes of its input is not known")
            if (axis := _input(node, 2)) and _constant(model, axis) is None:
                raise PreconditionError(f"DFT {node.name!r}: its axis is no constant")

    def call(self, model: onnx.ModelProto) -> PassResult:
        if not _transforms(model):
            return PassResult(model, modified=False)
        result = onnx.ModelProto()
        result.CopyFrom(model)
        values, opset = _values(model), default_opset(model)
        made: dict[str, onnx.FunctionProto] = {}
        for node in _transforms(result):
            rank = _rank(node, values)
            default = -2 if opset >= AXIS_AS_INPUT_SINCE else 1
            length, axis = _input(node, 1), _input(node, 2)
            stated = _constant(model, axis) if axis else _flag(node, "axis", default)
            assert stated is not None
            inverse, onesided = _flag(node, "inverse"), _flag(node, "onesided")
            name = f"Dft_{rank}_{stated % rank}_{inverse}_{onesided}_{int(bool(length))}"
            made[name] = _function(name, opset, rank, stated % rank, bool(inverse), bool(onesided), bool(length))
            inputs = [node.input[0], length] if length else [node.input[0]]
            node.CopyFrom(make_node(name, inputs, node.output, node.name, domain=DOMAIN))
        result.functions.extend(made.values())
        if all(imported.domain != DOMAIN for imported in result.opset_import):
            result.opset_import.append(make_opsetid(DOMAIN, VERSION))
        return PassResult(result, modified=True)


def _transforms(model: onnx.ModelProto) -> list[onnx.NodeProto]:
    return [node for node in model.graph.node if node.op_type == "DFT" and node.domain in ("", "ai.onnx")]


def _values(model: onnx.ModelProto) -> dict[str, onnx.ValueInfoProto]:
    return {value.name: value for value in model.graph.input} | infer_value_infos(model)


def _rank(node: onnx.NodeProto, values: dict[str, onnx.ValueInfoProto]) -> int:
    """Axes of the input, the last of which holds real and imaginary part; 0 where that is not known."""
    value = values.get(node.input[0])
    return len(value.type.tensor_type.shape.dim) if value else 0


def _input(node: onnx.NodeProto, index: int) -> str:
    """Name of an optional input; empty where it is left out."""
    return node.input[index] if len(node.input) > index else ""


def _flag(node: onnx.NodeProto, name: str, default: int = 0) -> int:
    stated = any(attribute.name == name for attribute in node.attribute)
    return int(get_node_attr_value(node, name)) if stated else default


def _constant(model: onnx.ModelProto, name: str) -> int | None:
    for tensor in model.graph.initializer:
        if tensor.name == name:
            return int(onnx.numpy_helper.to_array(tensor).item())
    for node in model.graph.node:
        if node.op_type == "Constant" and node.output[0] == name:
            value = onnx.helper.get_attribute_value(node.attribute[0])
            return int(onnx.numpy_helper.to_array(value).item() if isinstance(value, onnx.TensorProto) else value)
    return None


def _function(
    name: str, opset: int, rank: int, axis: int, inverse: bool, onesided: bool, has_length: bool
) -> onnx.FunctionProto:
    """The transform of x [..., 1 or 2] along `axis`, which is moved behind the others for the product."""
    order = [*range(rank - 1)]
    order.append(order.pop(axis))
    back = [order.index(place) for place in range(rank - 1)]
    onesided_inverse, onesided_forward = onesided and inverse, onesided and not inverse
    length = "Identity (dft_length)" if has_length else "Identity (given)"
    if onesided_inverse and not has_length:
        # numpy.fft.irfft: half of an even signal was given.
        length = "Mul (two, given_less_one)"
    outputs = "Add (half, one)" if onesided_forward else "Identity (length)"
    # Half of a real signal's spectrum stands for both halves, but for its first entry and, at even lengths, its last.
    doubled = "Where (alone, unit, double)" if onesided_inverse else "Identity (unit)"
    # One-sided: entries beyond half the length mirror others, and are not read.
    room = "Add (half, one)" if onesided_inverse else "Identity (length)"
    real = "re_c_less" if inverse else "re_c_more"
    imaginary = "im_c_less" if inverse else "im_c_more"
    scale = "Div (wide, length_float)" if inverse else "Identity (wide)"
    result = "Unsqueeze (real_back, last)" if onesided_inverse else "Concat <axis = -1> (real_wide, imaginary_wide)"
    text = f"""
    <domain: "{DOMAIN}", opset_import: ["" : {opset}]>
    {name} (x{", dft_length" if has_length else ""}) => (y)
    {{
        zero = Constant <value_int = 0> ()
        one = Constant <value_int = 1> ()
        two = Constant <value_int = 2> ()
        last = Constant <value_ints = [-1]> ()
        front = Constant <value_ints = [0]> ()
        unit = Constant <value_float = 1.0> ()
        double = Constant <value_float = 2.0> ()
        circle = Constant <value_float = {math.tau}> ()
        sizes = Shape (x)
        parts_1 = Gather (sizes, last)
        parts = Squeeze (parts_1)
        axis = Constant <value_int = {axis}> ()
        given = Gather (sizes, axis)
        given_less_one = Sub (given, one)
        length_any = {length}
        length = Squeeze (length_any)
        length_float = Cast <to = 1> (length)
        half = Div (length, two)
        outputs = {outputs}
        room = {room}
        used = Min (given, room)
        used_1 = Unsqueeze (used, front)

        x_float = Cast <to = 1> (x)
        re_all = Gather <axis = -1> (x_float, zero)
        re_moved = Transpose <perm = {order}> (re_all)
        re = Slice (re_moved, front, used_1, last)
        last_part = Sub (parts, one)
        im_given = Gather <axis = -1> (x_float, last_part)
        is_complex = Cast <to = 1> (last_part)
        im_all = Mul (im_given, is_complex)
        im_moved = Transpose <perm = {order}> (im_all)
        im = Slice (im_moved, front, used_1, last)

        n = Range (zero, used, one)
        m = Range (zero, outputs, one)
        n_column = Unsqueeze (n, last)
        products = Mul (n_column, m)
        turns = Mod (products, length)
        turns_float = Cast <to = 1> (turns)
        turned = Mul (turns_float, circle)
        angle = Div (turned, length_float)
        n_twice = Mul (n_column, two)
        mirrored = Mod (n_twice, length)
        alone = Equal (mirrored, zero)
        wide = {doubled}
        weight = {scale}
        C_plain = Cos (angle)
        S_plain = Sin (angle)
        C = Mul (C_plain, weight)
        S = Mul (S_plain, weight)

        re_c = MatMul (re, C)
        im_s = MatMul (im, S)
        re_s = MatMul (re, S)
        im_c = MatMul (im, C)
        re_c_more = Add (re_c, im_s)
        re_c_less = Sub (re_c, im_s)
        im_c_more = Sub (im_c, re_s)
        im_c_less = Add (im_c, re_s)
        real_back = Transpose <perm = {back}> ({real})
        imaginary_back = Transpose <perm = {back}> ({imaginary})
        real_wide = Unsqueeze (real_back, last)
        imaginary_wide = Unsqueeze (imaginary_back, last)
        y_float = {result}
        y = CastLike (y_float, x)
    }}
    """
    return onnx.parser.parse_function(text)
