"""The same model without model-local functions, for tools that know standard operators only."""

from __future__ import annotations

from collections.abc import Collection

import onnx
import onnx_ir
from onnx_ir.passes import Sequential
from onnx_ir.passes.common import (
    InlinePass,
    NameFixPass,
    RemoveUnusedFunctionsPass,
    RemoveUnusedNodesPass,
    RemoveUnusedOpsetsPass,
)
from onnxscript import optimizer

from kdguard.graph_passes.pass_base import GraphPass, PassResult, PostconditionError


class WriteOutFunctions(GraphPass):
    """Standard operators in place of functions.

    1. Every node of a function, those in bodies included, becomes the function's nodes.
    2. What follows from constants alone is computed. So conditions on attributes are decided, and of such an `If`
       the branch that is taken stays.
    3. Nodes, functions and operator sets that nobody needs any more go.
    """

    def __init__(self, keep: Collection[str] = ()) -> None:
        """Set it up.

        Args:
            keep: names of functions that stay functions: a runtime may have a plugin of that name.
        """
        self.keep = frozenset(keep)

    def call(self, model: onnx.ModelProto) -> PassResult:
        if all(function.name in self.keep for function in model.functions):
            return PassResult(model, modified=False)
        graph = onnx_ir.from_proto(model)
        Sequential(InlinePass(lambda function: function.name not in self.keep), NameFixPass())(graph)
        optimizer.fold_constants(graph, onnx_shape_inference=False)
        unused = RemoveUnusedFunctionsPass()  # type: ignore[no-untyped-call]
        Sequential(RemoveUnusedNodesPass(), unused, RemoveUnusedOpsetsPass())(graph)
        return PassResult(onnx_ir.to_proto(graph), modified=True)

    def ensures(self, result: PassResult, original: onnx.ModelProto) -> None:
        if not {function.name for function in result.model.functions} <= self.keep:
            raise PostconditionError("a function is left")
        super().ensures(result, original)
