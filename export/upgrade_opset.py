"""Raising the operator set of old models with onnx's own converter, without what that loses on the way.

The converter drops local functions, sparse weights, metadata and quantisation annotations without a
word, writes symbols of its own into shapes, and forgets how old `Resize` placed its samples. What can
be put back is; the rest is refused. Whether the answers stayed the same is for the caller to measure.
"""

from __future__ import annotations

from collections import Counter

import onnx
from onnx import version_converter
from onnx.external_data_helper import uses_external_data

from kdguard.export.errors import UserError, first_line
from kdguard.export.graph_bodies import with_bodies
from kdguard.export.onnx_files import default_opset

TARGET_OPSET = 17
MIN_IR_VERSION = 8
"""What opset 17 came with."""
_STANDARD = ("", "ai.onnx")
_LARGE = 4096
"""Bytes; converting looks into small constants (axes, scales) only."""
_RESIZE_LEARNT_TO_PLACE = 11


def upgrade_opset(model: onnx.ModelProto, where: str = "the model") -> onnx.ModelProto:
    """A copy of the model with the standard operators of opset `TARGET_OPSET`; itself where it has them.

    Raises:
        UserError: the model has something that the converter would lose, or cannot convert.
    """
    opset = default_opset(model)
    if opset >= TARGET_OPSET:
        return model
    to = f"{where} uses opset {opset} and cannot be converted to {TARGET_OPSET}"
    advice = f"; export it again with opset {TARGET_OPSET} or newer"
    if model.functions:
        raise UserError(f"{to}: its functions ({model.functions[0].name!r} first) would be lost{advice}")
    if any(graph.sparse_initializer for graph in with_bodies(model.graph)):
        raise UserError(f"{to}: its sparse weights would be lost{advice}")
    skeleton, large = _without_large_weights(model)
    try:
        converted = version_converter.convert_version(skeleton, TARGET_OPSET)
    except Exception as error:  # the converter raises RuntimeError for what it lacks, and asserts
        raise UserError(f"{to}: {first_line(error)}{advice}") from error
    if lost := _foreign_nodes(model) - _foreign_nodes(converted):
        raise UserError(f"{to}: {next(iter(lost))} would be lost{advice}")
    if opset < _RESIZE_LEARNT_TO_PLACE:
        _place_samples_as_before(converted)
    _restore(converted, model, large)
    try:
        onnx.checker.check_model(_without_large_weights(converted)[0])
    except onnx.checker.ValidationError as error:
        raise UserError(f"{to}: the result is not valid: {first_line(error)}{advice}") from error
    return converted


def _without_large_weights(model: onnx.ModelProto) -> tuple[onnx.ModelProto, set[str]]:
    """A copy whose large initializers are inputs, and their names: weights need not be copied about."""
    large = {t.name for t in model.graph.initializer if uses_external_data(t) or t.ByteSize() > _LARGE}
    skeleton = onnx.ModelProto(ir_version=max(model.ir_version, MIN_IR_VERSION))
    skeleton.opset_import.extend(model.opset_import)
    skeleton.metadata_props.extend(model.metadata_props)
    for field in ("producer_name", "producer_version", "domain", "model_version", "doc_string"):
        setattr(skeleton, field, getattr(model, field))
    graph = skeleton.graph
    graph.name, graph.doc_string = model.graph.name, model.graph.doc_string
    graph.node.extend(model.graph.node)
    graph.input.extend(model.graph.input)
    graph.output.extend(model.graph.output)
    declared = {value.name for value in model.graph.input}
    for tensor in model.graph.initializer:
        if tensor.name not in large:
            graph.initializer.append(tensor)
        elif tensor.name not in declared:
            graph.input.append(onnx.helper.make_tensor_value_info(tensor.name, tensor.data_type, tensor.dims))
    return skeleton, large


def _foreign_nodes(model: onnx.ModelProto) -> Counter[str]:
    return Counter(
        f"{node.domain}::{node.op_type}"
        for graph in with_bodies(model.graph)
        for node in graph.node
        if node.domain not in _STANDARD
    )


def _place_samples_as_before(model: onnx.ModelProto) -> None:
    """Resize and Upsample before opset 11 knew one way to place samples; it is no longer the default."""
    for graph in with_bodies(model.graph):
        for node in graph.node:
            if node.op_type == "Resize" and node.domain in _STANDARD:
                present = {attribute.name for attribute in node.attribute}
                for name, value in (("coordinate_transformation_mode", "asymmetric"), ("nearest_mode", "floor")):
                    if name not in present:
                        node.attribute.append(onnx.helper.make_attribute(name, value))


def _restore(converted: onnx.ModelProto, original: onnx.ModelProto, large: set[str]) -> None:
    """Put back, in place, what the converter dropped, and take out what it made up."""
    graph = converted.graph
    small = {tensor.name: tensor for tensor in graph.initializer}
    kept = [
        t if t.name in large else small.pop(t.name) for t in original.graph.initializer if t.name in large | set(small)
    ]
    weights = [*kept, *small.values()]
    restored = onnx.GraphProto()
    restored.initializer.extend(weights)
    del graph.initializer[:], graph.input[:], graph.value_info[:], graph.quantization_annotation[:]
    graph.initializer.extend(restored.initializer)
    graph.input.extend(original.graph.input)
    graph.value_info.extend(original.graph.value_info)
    graph.quantization_annotation.extend(original.graph.quantization_annotation)
    del graph.metadata_props[:], converted.metadata_props[:]
    graph.metadata_props.extend(original.graph.metadata_props)
    converted.metadata_props.extend(original.metadata_props)
    nodes = {(n.op_type, n.output[0]): n for g in with_bodies(original.graph) for n in g.node if n.output}
    for body in with_bodies(graph):
        for node in body.node:
            before = nodes.get((node.op_type, node.output[0])) if node.output else None
            if before is not None:
                del node.metadata_props[:]
                node.metadata_props.extend(before.metadata_props)
                node.doc_string = before.doc_string
