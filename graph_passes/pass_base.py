"""What a pass is: requires, call, ensures; model in, `PassResult` out, the input left as it was."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass

import onnx

from kdguard.export.errors import UserError
from kdguard.export.large_models import without_weights


@dataclass(frozen=True)
class PassResult:
    """A pass's outcome.

    Attributes:
        model: the rewritten model, or the very input where nothing had to change.
        modified: whether it changed.
    """

    model: onnx.ModelProto
    modified: bool


class PreconditionError(UserError):
    """The model is not one this pass can work on."""


class PostconditionError(Exception):
    """The pass broke its promise: a bug of ours."""


class GraphPass(ABC):
    """Base of all passes. Call the instance; override the three steps."""

    def requires(self, model: onnx.ModelProto) -> None:  # noqa: B027  most passes take any model
        """Raise `PreconditionError` where the pass cannot work on this model."""

    @abstractmethod
    def call(self, model: onnx.ModelProto) -> PassResult:
        """Do the work without changing `model`."""

    def ensures(self, result: PassResult, original: onnx.ModelProto) -> None:
        """Raise `PostconditionError` where the result breaks the pass's promise.

        By default: a modified model passes the full checker and strict shape inference, unless the
        original failed them too (models with ops that onnx does not know do).
        """
        problem = full_check_problem(result.model) if result.modified else None
        if problem and full_check_problem(original) is None:
            raise PostconditionError(f"{type(self).__name__} broke the model: {problem}")

    def __call__(self, model: onnx.ModelProto) -> PassResult:
        self.requires(model)
        result = self.call(model)
        self.ensures(result, model)
        return result


def full_check_problem(model: onnx.ModelProto) -> str | None:
    """What the full checker and strict shape inference say, or None when they are content."""
    model = without_weights(model)
    try:
        onnx.checker.check_model(model, full_check=True)
        onnx.shape_inference.infer_shapes(model, check_type=True, strict_mode=True, data_prop=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        return str(error)
    return None
