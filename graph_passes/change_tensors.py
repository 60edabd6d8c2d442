"""The base of passes that change tensors in the path: everything downstream sees the changed ones."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence

import onnx
from onnx import helper

from kdguard.graph_passes.layers import NAME_PREFIX, rename_tensors
from kdguard.graph_passes.pass_base import GraphPass, PassResult, PreconditionError


class ChangeTensors(GraphPass):
    """Put nodes behind tensors of the main graph; a changed tensor keeps its public name.

    What prior defences are made of, here to be compared with.
    """

    def __init__(self, tensors: Sequence[str]) -> None:
        self.tensors = tuple(tensors)

    @abstractmethod
    def nodes(self, clean: str, changed: str) -> list[onnx.NodeProto]:
        """Nodes that make `changed` of `clean`; names of further tensors start with `changed`."""

    def requires(self, model: onnx.ModelProto) -> None:
        made = {name for node in model.graph.node for name in node.output}
        for tensor in self.tensors:
            if tensor not in made:
                raise PreconditionError(f"{tensor!r} is not a tensor of the model's graph; see `kdguard inspect MODEL`")

    def call(self, model: onnx.ModelProto) -> PassResult:
        result = onnx.ModelProto()
        result.CopyFrom(model)
        kept: list[onnx.NodeProto] = []
        for node in model.graph.node:
            changed = [tensor for tensor in self.tensors if tensor in node.output]
            own = onnx.NodeProto()
            own.CopyFrom(node)
            clean = {tensor: f"{NAME_PREFIX}{tensor}/clean" for tensor in changed}
            own.output[:] = [clean.get(name, name) for name in own.output]
            kept.append(own)
            for tensor in changed:
                added = self.nodes(clean[tensor], tensor)
                own_names = {name: f"{NAME_PREFIX}{name}" for n in added for name in n.output if name != tensor}
                rename_tensors(added, own_names)
                kept += added
        del result.graph.node[:]
        result.graph.node.extend(kept)
        return PassResult(result, modified=bool(self.tensors))


def constant(name: str, value: float, like: str) -> list[onnx.NodeProto]:
    """Nodes that make `name` a number of the same type as tensor `like`."""
    number = helper.make_node("Constant", [], [f"{name}/value"], value_float=value)
    return [number, helper.make_node("CastLike", [f"{name}/value", like], [name])]
