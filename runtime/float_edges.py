"""bfloat16 models with float32 at their edges: NumPy has no bfloat16, and onnxruntime's arrays neither."""

from __future__ import annotations

import onnx

from kdguard.graph_passes.layers import NAME_PREFIX, infer_value_infos, rename_tensors

_FLOAT, _BFLOAT16 = onnx.TensorProto.FLOAT, onnx.TensorProto.BFLOAT16


def with_float_edges(model: onnx.ModelProto) -> onnx.ModelProto:
    """The model, or a copy whose bfloat16 inputs and outputs are float32 and cast inside.

    Outputs without a type, which taps are, are looked up by shape inference.
    """
    if not _uses_bfloat16(model):
        return model
    values = infer_value_infos(model)
    cast = onnx.ModelProto()
    cast.CopyFrom(model)
    graph = cast.graph
    inputs = [value for value in graph.input if value.type.tensor_type.elem_type == _BFLOAT16]
    outputs = [value for value in graph.output if _is_bfloat16(value, values)]
    inner = {value.name: f"{NAME_PREFIX}bfloat16/{value.name}" for value in (*inputs, *outputs)}
    for tensor in graph.initializer:  # default values of inputs would have to be cast as well
        inner.pop(tensor.name, None)
    rename_tensors(graph.node, inner)
    for value in inputs:
        if value.name in inner:
            value.type.tensor_type.elem_type = _FLOAT
            graph.node.insert(0, onnx.helper.make_node("Cast", [value.name], [inner[value.name]], to=_BFLOAT16))
    for value in outputs:
        value.type.tensor_type.elem_type = _FLOAT
        graph.node.append(onnx.helper.make_node("Cast", [inner[value.name]], [value.name], to=_FLOAT))
    kept = [value for value in graph.value_info if value.name not in inner]
    del graph.value_info[:]
    graph.value_info.extend(kept)
    return cast


def _uses_bfloat16(model: onnx.ModelProto) -> bool:
    typed = (*model.graph.input, *model.graph.output)
    return (
        any(value.type.tensor_type.elem_type == _BFLOAT16 for value in typed)
        or any(tensor.data_type == _BFLOAT16 for tensor in model.graph.initializer)
        or any(a.name == "to" and a.i == _BFLOAT16 for node in model.graph.node for a in node.attribute)
    )


def _is_bfloat16(output: onnx.ValueInfoProto, values: dict[str, onnx.ValueInfoProto]) -> bool:
    known = output if output.type.tensor_type.elem_type else values.get(output.name, output)
    return known.type.tensor_type.elem_type == _BFLOAT16
