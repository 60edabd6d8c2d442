"""The model that an engine is built from: our functions written out in standard operators."""

from __future__ import annotations

import tempfile
from pathlib import Path

import onnx

from kdguard.export.errors import UserError, first_line
from kdguard.export.large_models import is_large

FLOAT16 = onnx.TensorProto.FLOAT16


def written_out(model: onnx.ModelProto) -> onnx.ModelProto:
    """The same model without functions: what our attributes switch off is gone, what is left is standard operators.

    onnxruntime does it when it loads a model. TensorRT's parser, given the functions, fails on their conditions.

    Only of a float model: onnxruntime's CPU provider has no 16-bit convolution and would make it float.

    Raises:
        UserError: onnxruntime refuses the model, it is not float, or its weights lie outside of the file.
    """
    import onnxruntime

    if is_large(model):
        raise UserError("engines are built from models of one file, and this one keeps weights in others")
    if FLOAT16 in {tensor.data_type for tensor in model.graph.initializer}:
        raise UserError("engines are built from float models so far, and this one is in fp16")

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
