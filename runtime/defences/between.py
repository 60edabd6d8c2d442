"""Models on the way from one set of weights to another."""

from __future__ import annotations

import numpy as np
import onnx
from onnx import numpy_helper


def between(clean: onnx.ModelProto, other: onnx.ModelProto, share: float) -> onnx.ModelProto:
    """The clean model with weights so far on the way to the other one's, which has the same graph."""
    result = onnx.ModelProto()
    result.CopyFrom(clean)
    for own, aim in zip(result.graph.initializer, other.graph.initializer, strict=True):
        if own.raw_data == aim.raw_data and own.float_data == aim.float_data:
            continue
        first, second = numpy_helper.to_array(own), numpy_helper.to_array(aim)
        mixed = (first + share * (second.astype(np.float64) - first)).astype(first.dtype)
        own.CopyFrom(numpy_helper.from_array(mixed, own.name))
    return result
