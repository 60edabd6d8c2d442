"""A model brought into the form that the executor takes: no functions, no bodies, only operators it knows."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import onnx
from onnx import AttributeProto, helper, inliner

from kdguard.export.errors import UserError
from kdguard.export.large_models import is_large
from kdguard.export.onnx_files import default_opset
from kdguard.graph_passes.op.attributes import DOMAIN
from kdguard.runtime.torch_graph.node import Node
from kdguard.runtime.torch_graph.registry import OPERATORS

BODIES = ("If", "Loop", "Scan")


def operator_name(node: onnx.NodeProto) -> str:
    """As in `OPERATORS`: with the domain in front where that is not ONNX's own."""
    return node.op_type if node.domain in ("", "ai.onnx") else f"{node.domain}.{node.op_type}"


def described(node: onnx.NodeProto, opset: int) -> Node:
    """The node as the operators' torch forms take it."""
    attributes = {a.name: _value(a) for a in node.attribute if a.type not in (AttributeProto.GRAPH,)}
    name = node.name or next(iter(node.output), "")
    # Trailing outputs that are left out are not asked for.
    named = [index for index, output in enumerate(node.output) if output]
    return Node(operator_name(node), name, attributes, max(named, default=-1) + 1, opset)


def _value(attribute: AttributeProto) -> Any:
    value = helper.get_attribute_value(attribute)
    return value.decode() if isinstance(value, bytes) else value


def _unknown(model: onnx.ModelProto) -> Iterator[onnx.NodeProto]:
    return (n for n in model.graph.node if operator_name(n) not in OPERATORS and n.op_type != "Constant")


def _expandable(node: onnx.NodeProto, opset: int) -> bool:
    """Whether ONNX itself defines the operator by simpler ones."""
    if node.domain not in ("", "ai.onnx") or node.op_type in BODIES or not onnx.defs.has(node.op_type):
        return False
    schema = onnx.defs.get_schema(node.op_type, opset, "")
    return bool(schema.has_function or schema.has_context_dependent_function)  # type: ignore[attr-defined]  # in C++


def _expanded(model: onnx.ModelProto, operators: list[str], opset: int) -> onnx.ModelProto:
    """The model with these operators replaced by ONNX's own definitions of them."""
    typed = onnx.shape_inference.infer_shapes(model)
    # onnx expands only what says the type of every tensor, weights included, and the value of every attribute.
    stated = {value.name for value in (*typed.graph.input, *typed.graph.value_info)}
    typed.graph.value_info.extend(
        helper.make_tensor_value_info(tensor.name, tensor.data_type, tensor.dims)
        for tensor in typed.graph.initializer
        if tensor.name not in stated
    )
    for node in typed.graph.node:
        if operator_name(node) in operators:
            given = {attribute.name for attribute in node.attribute}
            defined = onnx.defs.get_schema(node.op_type, opset, "").attributes
            defaults = (entry.default_value for name, entry in defined.items() if name not in given)
            node.attribute.extend(default for default in defaults if default.type != AttributeProto.UNDEFINED)
    names = [("", name) for name in operators]
    return inliner.inline_selected_functions(typed, names, inline_schema_functions=True)


def prepared(model: onnx.ModelProto) -> onnx.ModelProto:
    """The model with its functions inlined; the model itself where it has none.

    Raises:
        UserError: something in it has no torch form.
    """
    if is_large(model) or model.graph.sparse_initializer:
        raise UserError(
            "cannot be trained in torch: the model keeps weights in data files of more than 256 MB, or sparsely; "
            "train it in the framework that it comes from"
        )
    opset = default_opset(model)
    for node in model.graph.node:
        if node.domain == DOMAIN:
            raise described(node, opset).unsupported("is kdguard's own", "strip the model first")
    if model.functions:
        model = inliner.inline_local_functions(model)
    expandable = sorted({node.op_type for node in _unknown(model) if _expandable(node, opset)})
    if expandable:
        model = _expanded(model, expandable, opset)
    for node in _unknown(model):
        raise described(node, opset).unsupported()
    return model
