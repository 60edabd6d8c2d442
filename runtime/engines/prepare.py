"""The model that an engine is built from: our functions written out in standard operators."""

from __future__ import annotations

import math
from collections.abc import Collection
from typing import Literal

import onnx

from kdguard.export.onnx_files import all_tensors
from kdguard.graph_passes.dft_as_products import DftAsProducts
from kdguard.graph_passes.half_precision import HalfPrecision
from kdguard.graph_passes.write_out_functions import WriteOutFunctions

_NAMES: dict[int, str] = {
    onnx.TensorProto.FLOAT: "fp32",
    onnx.TensorProto.FLOAT16: "fp16",
    onnx.TensorProto.BFLOAT16: "bf16",
}
Precision = Literal["as-is", "fp16"]


def written_out(model: onnx.ModelProto, precision: Precision = "as-is", keep: Collection[str] = ()) -> onnx.ModelProto:
    """The same model without functions: what our attributes switch off is gone, what is left is standard operators.

    TensorRT's parser, given the functions, fails on their conditions; and it has no DFT operator.

    Args:
        precision: fp16 makes float weights and maps so; a model in 16 bits stays in them either way.
        keep: functions that stay, for a plugin to take their place.

    Raises:
        UserError: fp16 is asked for and the weights lie in data files.
    """
    if precision == "fp16":
        model = HalfPrecision()(model).model
    plain = WriteOutFunctions(keep)(model).model  # a function may hold a DFT
    return WriteOutFunctions(keep)(DftAsProducts()(plain).model).model


def precision_of(model: onnx.ModelProto) -> str:
    """What most of the weights are in: `fp32`, `fp16` or `bf16`.

    Weights are initializers or constants with two axes or more and more than one value: not epsilons and factors.
    """
    sizes = {"fp32": 0, "fp16": 0, "bf16": 0}
    for tensor in all_tensors(model):
        values = math.prod(tensor.dims)
        if (name := _NAMES.get(tensor.data_type)) and len(tensor.dims) >= 2 and values > 1:
            sizes[name] += values
    if not any(sizes.values()):  # no weights: what the image comes in
        kinds = [value.type.tensor_type.elem_type for value in model.graph.input]
        return next((_NAMES[kind] for kind in kinds if kind in _NAMES), "fp32")
    return max(sizes, key=lambda name: sizes[name])
