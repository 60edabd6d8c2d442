"""The pass that lets a key open a self-ensemble: the mean of the teacher's answers over flips of the image.

Geometric self-ensemble is of Lim et al., CVPRW 2017; as what a key holder's student learns from it is knowledge
augmentation in the sense of Safe Distillation Box (arXiv 2112.03695).

>>> from kdguard.graph_passes.insert_key_gate import gate_model
>>> from kdguard.graph_passes.insert_view_ensemble import InsertViewEnsemble
>>> gated = InsertViewEnsemble([0, 4])(gate_model(hardened, [secret])).model
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import onnx
from onnx import TensorProto, helper

from kdguard.export.onnx_files import default_opset
from kdguard.graph_passes.key_gate.inventory import read_gate
from kdguard.graph_passes.key_gate.names import (
    ENSEMBLE,
    ENSEMBLE_OUTPUT,
    FIRST,
    GATE,
    GATE_DOMAIN,
    HINT,
    HINT_PREFIX,
    KEY_INPUT,
    OPEN,
    SPREAD_OUTPUT,
    VIEWS,
    VIEWS_PREFIX,
)
from kdguard.graph_passes.key_gate.views import MIRRORED_SIDES, ensemble_views, view_functions
from kdguard.graph_passes.layers import keep_only, rename_tensors
from kdguard.graph_passes.pass_base import GraphPass, PassResult, PreconditionError

BATCH = "batch"
IMAGES, ANSWERS, COUNT, TAKEN = (f"{VIEWS_PREFIX}{part}" for part in ("images", "answers", "count", "taken"))


class InsertViewEnsemble(GraphPass):
    """Add outputs `kdguard_ensemble` and `kdguard_spread` to a model with a key gate.

    1. Where the gate is open, the views of the image go through the network as further images of its batch. The
       model's own output and its hints are those of the first view, the image as it is.
    2. `kdguard_ensemble` is the mean of the answers, mirrored back, float32, shaped like the output; `kdguard_spread`
       is their standard deviation, mean over the channels, with one channel: where it is large the teacher is unsure.
    3. Where the gate is shut, nothing but the image goes through the network, no bit of the output changes, and both
       outputs hold no images (N = 0).
    4. Engines need the gate in another form (`with_required_key`), which has no ensemble: how many images the network
       sees would depend on a value.
    """

    def __init__(self, views: Sequence[int], *, spatial_axes: tuple[int, int] = (2, 3)) -> None:
        """Set it up.

        Args:
            views: from 2, 4 and 6; 0, the image as it is, is always among them.
            spatial_axes: height's and width's, of input and output.
        """
        self.views = tuple(sorted({0, *views}))
        self.spatial_axes = spatial_axes

    def requires(self, model: onnx.ModelProto) -> None:
        if unknown := set(self.views) - set(MIRRORED_SIDES):
            raise PreconditionError(f"view {min(unknown)} is none of {', '.join(map(str, MIRRORED_SIDES))}")
        if len(self.views) == 1:
            raise PreconditionError("an ensemble of the image alone is what the model answers anyway; name more views")
        gate = read_gate(model)
        if gate is None:
            raise PreconditionError("the model has no key gate that could open an ensemble")
        if gate.required:
            raise PreconditionError("the key must be fed here, as engines need it, and such a gate opens no ensemble")
        if ensemble_views(model):
            raise PreconditionError("the model has an ensemble already; gate the hardened model anew")
        graph = model.graph
        if len(_inputs(graph)) != 1 or len(_outputs(graph)) != 1:
            raise PreconditionError(
                f"an ensemble takes one image and gives one, and the model has inputs {_listed(_inputs(graph))} and "
                f"outputs {_listed(_outputs(graph))}"
            )
        for value in (*_inputs(graph), *_outputs(graph)):
            sides = value.type.tensor_type.shape.dim
            if len(sides) != 4 or sides[0].HasField("dim_value"):
                raise PreconditionError(
                    f"{value.name!r} has no open number of images, through which the views could go; export the model "
                    "with a dynamic batch, or leave the ensemble out"
                )

    def call(self, model: onnx.ModelProto) -> PassResult:
        result = onnx.ModelProto()
        result.CopyFrom(model)
        graph = result.graph
        image, output = _inputs(graph)[0].name, _outputs(graph)[0].name
        rename_tensors(graph.node, {image: IMAGES, output: ANSWERS})
        # Runtimes share memory by such names, and inside are other numbers of images than outside.
        _rename_side(graph.value_info, _batch_of(_inputs(graph)[0]), f"{VIEWS_PREFIX}{BATCH}")
        after_gate = next(index for index, node in enumerate(graph.node) if _is(node, GATE)) + 1
        graph.node.insert(after_gate, _node(VIEWS, [image, OPEN], [IMAGES, COUNT, TAKEN]))
        for hint in [node for node in graph.node if _is(node, HINT)]:
            own = f"{VIEWS_PREFIX}hinted/{hint.output[0].removeprefix(HINT_PREFIX)}"
            graph.node.insert(list(graph.node).index(hint), _node(FIRST, [hint.input[0], IMAGES, COUNT], [own], own))
            hint.input[0] = own
        graph.node.append(_node(ENSEMBLE, [ANSWERS, COUNT, TAKEN], [output, ENSEMBLE_OUTPUT, SPREAD_OUTPUT]))
        channels = ({1, 2, 3} - set(self.spatial_axes)).pop()
        for name, known in ((ENSEMBLE_OUTPUT, {}), (SPREAD_OUTPUT, {channels: 1})):
            sides = [known.get(axis) for axis in range(4)]
            graph.output.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, sides))
        result.functions.extend(view_functions(self.views, self.spatial_axes, default_opset(model)))
        return PassResult(result, modified=True)


def without_ensemble(model: onnx.ModelProto) -> onnx.ModelProto:
    """The gated model as it was before `InsertViewEnsemble`; itself where it has no ensemble.

    What restores images or asks for hints runs this: a right key would else send every view through the network.
    """
    if not ensemble_views(model):
        return model
    result = onnx.ModelProto()
    result.CopyFrom(model)
    graph = result.graph
    names = {}
    for node in graph.node:
        if _is(node, VIEWS):
            names[IMAGES] = node.input[0]
        elif _is(node, ENSEMBLE):
            names[ANSWERS] = node.output[0]
        elif _is(node, FIRST):
            names[node.output[0]] = node.input[0]
    ours = {(GATE_DOMAIN, kind) for kind in (VIEWS, ENSEMBLE, FIRST)}
    keep_only(graph.node, lambda node: (node.domain, node.op_type) not in ours)
    rename_tensors(graph.node, names)
    _rename_side(graph.value_info, f"{VIEWS_PREFIX}{BATCH}", _batch_of(_inputs(graph)[0]))
    keep_only(graph.output, lambda value: value.name not in (ENSEMBLE_OUTPUT, SPREAD_OUTPUT))
    keep_only(result.functions, lambda function: (function.domain, function.name) not in ours)
    return result


def _is(node: onnx.NodeProto, kind: str) -> bool:
    return (node.domain, node.op_type) == (GATE_DOMAIN, kind)


def _batch_of(value: onnx.ValueInfoProto) -> str:
    return value.type.tensor_type.shape.dim[0].dim_param


def _rename_side(values: Iterable[onnx.ValueInfoProto], name: str, new: str) -> None:
    for value in values:
        for side in value.type.tensor_type.shape.dim:
            if name and side.dim_param == name:
                side.dim_param = new


def _node(op_type: str, inputs: Sequence[str], outputs: Sequence[str], name: str | None = None) -> onnx.NodeProto:
    return helper.make_node(op_type, inputs, outputs, name or f"{VIEWS_PREFIX}{op_type}", domain=GATE_DOMAIN)


def _inputs(graph: onnx.GraphProto) -> list[onnx.ValueInfoProto]:
    constants = {tensor.name for tensor in graph.initializer}
    return [value for value in graph.input if value.name not in constants | {KEY_INPUT}]


def _outputs(graph: onnx.GraphProto) -> list[onnx.ValueInfoProto]:
    return [value for value in graph.output if not value.name.startswith(HINT_PREFIX)]


def _listed(values: Sequence[onnx.ValueInfoProto]) -> str:
    return ", ".join(value.name for value in values)
