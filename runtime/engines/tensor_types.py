"""Types of an engine's inputs and outputs, as the vendor names them: those that NumPy has too."""

from __future__ import annotations

from typing import Literal, get_args

import numpy as np
import onnx
from onnx import TensorProto

from kdguard.export.errors import UserError

VendorType = Literal["float", "half", "int32", "int64", "bool", "uint8"]
NUMPY_TYPES: dict[VendorType, type[np.generic]] = {
    "float": np.float32,
    "half": np.float16,
    "int32": np.int32,
    "int64": np.int64,
    "bool": np.bool_,
    "uint8": np.uint8,
}
_ONNX_TYPES = {
    TensorProto.FLOAT,
    TensorProto.FLOAT16,
    TensorProto.INT32,
    TensorProto.INT64,
    TensorProto.BOOL,
    TensorProto.UINT8,
}


def check_types(model: onnx.ModelProto, where: str = "the model") -> None:
    """Fail before work starts if an engine of this model could be built and not be fed.

    Raises:
        UserError: an input or output is of another type, double say.
    """
    for value in (*model.graph.input, *model.graph.output):
        kind = value.type.tensor_type.elem_type
        if kind and kind not in _ONNX_TYPES:
            name = TensorProto.DataType.Name(kind).lower()
            raise UserError(
                f"{where}: {value.name!r} is {name}, and kdguard feeds engines {', '.join(get_args(VendorType))} only; "
                "export the model with float inputs and outputs"
            )
