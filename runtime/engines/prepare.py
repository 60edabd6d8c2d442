"""The model that an engine is built from: in the wanted precision, our functions written out in standard operators."""

from __future__ import annotations

import tempfile
from pathlib import Path

import onnx

from kdguard.export.errors import UserError, first_line
from kdguard.graph_passes.insert_svd_perturb import InsertSvdPerturb, Site
from kdguard.graph_passes.inventory import hardened_layers
from kdguard.graph_passes.strip_nodes import StripNodes

PRECISIONS = ("fp32", "fp16")


def in_precision(model: onnx.ModelProto, precision: str) -> onnx.ModelProto:
    """The hardened model with its weights and maps in this precision; inputs and outputs keep their types.

    TensorRT's networks are strongly typed: the file's types are the engine's. Our nodes are taken out for the
    conversion and put back as they were, since fp16 maps need the functions that undo themselves bit for bit.

    Raises:
        UserError: the converter refuses the model.
    """
    if precision == "fp32":
        return model
    from onnxruntime.transformers.float16 import convert_float_to_float16

    sites = [
        Site(layer.layer, layer.op, "paired" if layer.placement == "paired" else "in-path")
        for layer in hardened_layers(model)
    ]
    bare = StripNodes()(model).model
    try:
        half = convert_float_to_float16(bare, keep_io_types=True)
    except Exception as error:  # a converter of many authors, without an exception of its own
        raise UserError(f"the model cannot be converted to fp16: {first_line(error)}; build it with fp32") from error
    return InsertSvdPerturb(sites=sites)(half).model if sites else half


def written_out(model: onnx.ModelProto) -> onnx.ModelProto:
    """The same model without functions: what our attributes switch off is gone, what is left is standard operators.

    onnxruntime does it when it loads a model. TensorRT's parser, given the functions, fails on their conditions.

    Raises:
        UserError: onnxruntime refuses the model.
    """
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC
    options.log_severity_level = 4
    with tempfile.TemporaryDirectory() as folder:
        target = Path(folder) / "written_out.onnx"
        options.optimized_model_filepath = str(target)
        try:
            onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
        except Exception as error:  # onnxruntime raises a dozen types without a common public base
            raise UserError(f"onnxruntime refuses the model: {first_line(error)}") from error
        return onnx.load(target)
