"""The insertion pass: puts `SvdPerturb` behind chosen layers, alone or paired with `SvdRestore`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import onnx
import onnx_graphsurgeon as gs
from onnx import numpy_helper

from kdguard.export.onnx_files import default_opset
from kdguard.graph_passes.inventory import hardened_layers
from kdguard.graph_passes.layers import (
    CLEAN_SUFFIX,
    NAME_PREFIX,
    Layer,
    find_layers,
    find_obstacles,
    infer_value_infos,
    select_layers,
)
from kdguard.graph_passes.op import DOMAIN, MIN_OPSET, VERSION, SvdPerturbAttributes, op_functions
from kdguard.graph_passes.op.attributes import PERTURB, PLUGIN_NAMESPACE, RESTORE
from kdguard.graph_passes.pass_base import GraphPass, PassResult, PreconditionError
from kdguard.graph_passes.surgery import rewire

Placement = Literal["in-path", "paired"]
STRENGTH = f"{NAME_PREFIX}strength"
MIN_IR_VERSION = 8
"""Local functions appeared in IR version 8."""


@dataclass(frozen=True)
class Site:
    """One layer to perturb, and how.

    Attributes:
        layer: name of its tensor.
        placement: `paired` restores it before every reader, `in-path` lets everything downstream see it.
    """

    layer: str
    attributes: SvdPerturbAttributes
    placement: Placement = "paired"


class InsertSvdPerturb(GraphPass):
    """Insert the op after every selected layer.

    Layers are selected by globs on their tensor or node names or by the operator that makes them,
    all with the same attributes, or as `sites` with attributes each.

    1. The layer's public name moves to the perturbed tensor; the clean one is renamed.
    2. `in-path`: whoever read the layer now reads the perturbed tensor.
    3. `paired`: whoever read the layer, subgraphs included, reads the restored tensor instead. The
       change is handed from one node to the other: computing the subspace again would not be exact
       where singular values nearly coincide, and costs the Gram matrix twice.
    4. Strength is one shared constant 1; driving it is another pass's business.
    5. A layer that already carries the same op with the same attributes and placement is left
       alone, so running the pass twice changes nothing; with others it is refused.
    """

    def __init__(
        self,
        globs: Sequence[str] = (),
        attributes: SvdPerturbAttributes | None = None,
        *,
        op_types: Sequence[str] = (),
        placement: Placement = "paired",
        sites: Sequence[Site] = (),
    ) -> None:
        self.globs = tuple(globs)
        self.op_types = tuple(op_types)
        self.attributes = attributes or SvdPerturbAttributes()
        self.placement = placement
        self.sites = tuple(sites)

    def _resolve(self, layers: Sequence[Layer], obstacles: Mapping[str, str]) -> dict[str, Site]:
        """The site of every selected layer."""
        found = {site.layer: site for site in self.sites}
        if len(found) < len(self.sites):
            twice = next(site.layer for site in self.sites if found[site.layer] is not site)
            raise PreconditionError(f"layer {twice!r} has two sites; one tensor carries one op")
        if unknown := found.keys() - {layer.name for layer in layers}:
            raise PreconditionError(f"{sorted(unknown)[0]!r} is no feature map of this model that can be hardened")
        if not found or self.globs or self.op_types:
            for layer in select_layers(layers, self.globs, self.op_types, obstacles):
                found.setdefault(layer.name, Site(layer.name, self.attributes, self.placement))
        return found

    def requires(self, model: onnx.ModelProto) -> None:
        opset = default_opset(model)
        if opset < MIN_OPSET:
            raise PreconditionError(
                f"the model uses opset {opset} and the op needs {MIN_OPSET} or newer; convert it with "
                "kdguard.export.upgrade_opset (`kdguard harden` does) or export it again"
            )
        variants = [op_functions(opset, exact_change=exact) for exact in (False, True)]
        ours = [function for variant in variants for function in variant]
        for function in model.functions:
            if function.domain == DOMAIN and function not in ours:
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
        sites = self._resolve(layers, obstacles)
        self._check_same(model, sites)
        todo = [layer for layer in layers if layer.name in sites and not layer.hardened]
        if not todo:
            return PassResult(model, modified=False)
        names = {tensor.name for tensor in model.graph.initializer}
        strength = [] if STRENGTH in names else [numpy_helper.from_array(np.array(1, np.float32), STRENGTH)]
        result = rewire(model, lambda graph: self._edit(graph, [sites[layer.name] for layer in todo]), strength)
        _describe_new_tensors(result, values, [sites[layer.name] for layer in todo])
        # 16-bit outputs round away part of the change; all layers of a model share one set of functions.
        import_op(result, exact_change=any(layer.dtype != "float32" for layer in layers))
        return PassResult(result, modified=True)

    def _check_same(self, model: onnx.ModelProto, sites: Mapping[str, Site]) -> None:
        for found in hardened_layers(model):
            site = sites.get(found.layer)
            if site is None:
                continue
            if (found.attributes, found.placement) != (_as_stored(site), site.placement):
                raise PreconditionError(
                    f"layer {found.layer!r} is already hardened (rank {found.attributes['rank']}, gain "
                    f"{found.attributes['gain']:g}, {found.placement}); harden the clean teacher again to change it"
                )

    def _edit(self, graph: gs.Graph, sites: Sequence[Site]) -> list[gs.Node]:
        tensors = graph.tensors()
        strength = tensors.get(STRENGTH) or gs.Variable(STRENGTH)
        added = []
        for site in sites:
            added += self._insert(graph, tensors[site.layer], site, strength)
        return added

    def _insert(self, graph: gs.Graph, public: gs.Variable, site: Site, strength: gs.Variable) -> list[gs.Node]:
        """Put the nodes of one layer right behind its producer and reconnect its readers."""
        clean, restored, change = (gs.Variable(name) for name in _helper_names(site.layer))
        (producer,) = public.inputs
        readers = list(public.outputs)
        producer.outputs[producer.outputs.index(public)] = clean
        perturb = gs.Node(
            PERTURB,
            _node_name(PERTURB, site.layer),
            domain=DOMAIN,
            attrs=_node_attributes(site),
            inputs=[clean, strength],
            outputs=[public, change] if site.placement == "paired" else [public, gs.Variable.empty()],
        )
        nodes = [perturb]
        if site.placement == "paired":
            for reader in readers:
                for position, tensor in enumerate(reader.inputs):
                    if tensor is public:
                        reader.inputs[position] = restored
            nodes.append(
                gs.Node(
                    RESTORE,
                    _node_name(RESTORE, site.layer),
                    domain=DOMAIN,
                    attrs={"plugin_namespace": PLUGIN_NAMESPACE},
                    inputs=[public, change],
                    outputs=[restored],
                )
            )
        position = next(i for i, node in enumerate(graph.nodes) if node is producer) + 1
        graph.nodes[position:position] = nodes
        return nodes


def _describe_new_tensors(
    result: onnx.ModelProto, values: Mapping[str, onnx.ValueInfoProto], sites: Sequence[Site]
) -> None:
    """Give the clean and restored tensors the layer's type; readers of the file rely on it."""
    for site in sites:
        clean, restored, _ = _helper_names(site.layer)
        for name in (clean, restored) if site.placement == "paired" else (clean,):
            value = result.graph.value_info.add()
            value.CopyFrom(values[site.layer])
            value.name = name


def _node_attributes(site: Site) -> dict[str, object]:
    """Of the site's `SvdPerturb`: only a restorer needs the change."""
    return site.attributes.model_copy(update={"shared": site.placement == "paired"}).node_attributes()


def _as_stored(site: Site) -> dict[str, object]:
    """The attributes as a file gives them back: floats have 32 bits there."""
    return {
        name: float(np.float32(value))
        if isinstance(value, float)
        else [float(np.float32(entry)) for entry in value]
        if isinstance(value, list)
        else value
        for name, value in _node_attributes(site).items()
    }


def _helper_names(layer: str) -> tuple[str, str, str]:
    """Tensor names around a layer: clean, restored, change."""
    restored, change = (f"{NAME_PREFIX}{layer}/{part}" for part in ("out", "change"))
    return f"{NAME_PREFIX}{layer}{CLEAN_SUFFIX}", restored, change


def _node_name(op_type: str, layer: str) -> str:
    return f"{NAME_PREFIX}{op_type}/{layer}"


def import_op(model: onnx.ModelProto, *, exact_change: bool) -> None:
    """Declare the domain and add the functions that are not there yet, in place."""
    if DOMAIN not in {imported.domain for imported in model.opset_import}:
        model.opset_import.append(onnx.helper.make_opsetid(DOMAIN, VERSION))
    model.ir_version = max(model.ir_version, MIN_IR_VERSION)
    present = {function.name for function in model.functions if function.domain == DOMAIN}
    functions = op_functions(default_opset(model), exact_change=exact_change)
    model.functions.extend(f for f in functions if f.name not in present)
