"""The insertion pass: puts `SvdPerturb` behind chosen layers, alone or paired with `SvdRestore`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal

import numpy as np
import onnx
import onnx_graphsurgeon as gs
from onnx import numpy_helper

from kdguard.export.onnx_files import default_opset
from kdguard.graph_passes.inventory import hardened_layers
from kdguard.graph_passes.layers import (
    NAME_PREFIX,
    Layer,
    find_layers,
    find_obstacles,
    infer_value_infos,
    select_layers,
)
from kdguard.graph_passes.op import DOMAIN, MIN_OPSET, VERSION, SvdPerturbAttributes, op_functions
from kdguard.graph_passes.op.attributes import PERTURB, RESTORE
from kdguard.graph_passes.pass_base import GraphPass, PassResult, PreconditionError
from kdguard.graph_passes.surgery import rewire

Placement = Literal["in-path", "paired"]
STRENGTH = f"{NAME_PREFIX}strength"
MIN_IR_VERSION = 8
"""Local functions appeared in IR version 8."""


class InsertSvdPerturb(GraphPass):
    """Insert the op after every selected layer.

    1. A layer is selected by a glob on its tensor or node name, or by the operator that makes it.
    2. The layer's public name moves to the perturbed tensor; the clean one is renamed.
    3. `in-path`: whoever read the layer now reads the perturbed tensor.
    4. `paired`: whoever read the layer, subgraphs included, reads the restored tensor instead.
    5. Strength is one shared constant 1; driving it is another pass's business.
    6. A layer that already carries the same op with the same attributes and placement is left
       alone, so running the pass twice changes nothing; with others it is refused.
    """

    def __init__(
        self,
        globs: Sequence[str] = (),
        attributes: SvdPerturbAttributes | None = None,
        *,
        op_types: Sequence[str] = (),
        placement: Placement = "paired",
    ) -> None:
        self.globs = tuple(globs)
        self.op_types = tuple(op_types)
        self.attributes = attributes or SvdPerturbAttributes()
        self.placement = placement

    def requires(self, model: onnx.ModelProto) -> None:
        opset = default_opset(model)
        if opset < MIN_OPSET:
            raise PreconditionError(
                f"the model uses opset {opset} and the op needs {MIN_OPSET} or newer; convert it with "
                "kdguard.export.upgrade_opset (`kdguard harden` does) or export it again"
            )
        ours = {function.name: function for function in op_functions(opset)}
        for function in model.functions:
            if function.domain == DOMAIN and ours.get(function.name) != function:
                raise PreconditionError(
                    f"the model has a function {function.name!r} in the domain {DOMAIN!r} that is not this version's; "
                    "harden the clean teacher, or rename the domain if it is not kdguard's"
                )
        if not hardened_layers(model):
            for node in model.graph.node:
                for name in (*node.input, *node.output):
                    if name.startswith(NAME_PREFIX):
                        raise PreconditionError(f"tensor {name!r} has a name that kdguard keeps for its own; rename it")
        for imported in model.opset_import:
            if imported.domain == DOMAIN and imported.version != VERSION:
                raise PreconditionError(
                    f"the model was hardened with version {imported.version} of the op, this is version {VERSION}; "
                    "harden the clean teacher again"
                )

    def call(self, model: onnx.ModelProto) -> PassResult:
        values = infer_value_infos(model)
        layers, obstacles = find_layers(model, values), find_obstacles(model, values)
        selected = select_layers(layers, self.globs, self.op_types, obstacles)
        self._check_same(model, {layer.name for layer in selected if layer.hardened})
        todo = [layer for layer in selected if not layer.hardened]
        if not todo:
            return PassResult(model, modified=False)
        names = {tensor.name for tensor in model.graph.initializer}
        strength = [] if STRENGTH in names else [numpy_helper.from_array(np.array(1, np.float32), STRENGTH)]
        result = rewire(model, lambda graph: self._edit(graph, todo), strength)
        self._describe_new_tensors(result, values, todo)
        _import_op(result)
        return PassResult(result, modified=True)

    def _check_same(self, model: onnx.ModelProto, names: set[str]) -> None:
        wanted = self.attributes.node_attributes()
        wanted["gain"] = float(np.float32(self.attributes.gain))  # as the file stores it
        for found in hardened_layers(model):
            if found.layer in names and (found.attributes, found.placement) != (wanted, self.placement):
                raise PreconditionError(
                    f"layer {found.layer!r} is already hardened (rank {found.attributes['rank']}, gain "
                    f"{found.attributes['gain']:g}, {found.placement}); harden the clean teacher again to change it"
                )

    def _edit(self, graph: gs.Graph, layers: Sequence[Layer]) -> list[gs.Node]:
        tensors = graph.tensors()
        strength = tensors.get(STRENGTH) or gs.Variable(STRENGTH)
        added = []
        for layer in layers:
            added += self._insert(graph, tensors[layer.name], layer.name, strength)
        return added

    def _insert(self, graph: gs.Graph, public: gs.Variable, layer: str, strength: gs.Variable) -> list[gs.Node]:
        """Put the nodes of one layer right behind its producer and reconnect its readers."""
        clean, restored, basis, mean = (gs.Variable(name) for name in _helper_names(layer))
        (producer,) = public.inputs
        readers = list(public.outputs)
        producer.outputs[producer.outputs.index(public)] = clean
        common = {"domain": DOMAIN, "attrs": self.attributes.node_attributes()}
        nodes = [
            gs.Node(
                PERTURB,
                _node_name(PERTURB, layer),
                inputs=[clean, strength],
                outputs=[public, basis, mean],
                **common,
            )
        ]
        if self.placement == "paired":
            for reader in readers:
                for position, tensor in enumerate(reader.inputs):
                    if tensor is public:
                        reader.inputs[position] = restored
            nodes.append(
                gs.Node(
                    RESTORE,
                    _node_name(RESTORE, layer),
                    inputs=[public, basis, mean, strength],
                    outputs=[restored],
                    **common,
                )
            )
        position = next(i for i, node in enumerate(graph.nodes) if node is producer) + 1
        graph.nodes[position:position] = nodes
        return nodes

    def _describe_new_tensors(
        self, result: onnx.ModelProto, values: Mapping[str, onnx.ValueInfoProto], layers: Sequence[Layer]
    ) -> None:
        """Give the clean and restored tensors the layer's type; readers of the file rely on it."""
        for layer in layers:
            clean, restored, *_ = _helper_names(layer.name)
            for name in (clean, restored) if self.placement == "paired" else (clean,):
                value = result.graph.value_info.add()
                value.CopyFrom(values[layer.name])
                value.name = name


def _helper_names(layer: str) -> tuple[str, str, str, str]:
    """Tensor names around a layer: clean, restored, basis, mean."""
    clean, restored, basis, mean = (f"{NAME_PREFIX}{layer}/{part}" for part in ("in", "out", "basis", "mean"))
    return clean, restored, basis, mean


def _node_name(op_type: str, layer: str) -> str:
    return f"{NAME_PREFIX}{op_type}/{layer}"


def _import_op(model: onnx.ModelProto) -> None:
    """Declare the domain and add the functions that are not there yet, in place."""
    if DOMAIN not in {imported.domain for imported in model.opset_import}:
        model.opset_import.append(onnx.helper.make_opsetid(DOMAIN, VERSION))
    model.ir_version = max(model.ir_version, MIN_IR_VERSION)
    present = {function.name for function in model.functions if function.domain == DOMAIN}
    model.functions.extend(f for f in op_functions(default_opset(model)) if f.name not in present)
