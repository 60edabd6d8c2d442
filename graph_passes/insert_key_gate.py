"""The pass that puts the key gate into a hardened model: who has a key gets the clean path and the hints.

>>> from kdguard.graph_passes.insert_key_gate import gate_model
>>> from kdguard.graph_passes.key_gate import key_tensor, new_gate_secret
>>> secret = new_gate_secret()
>>> gated = gate_model(hardened, [secret], ["relu_13"])
>>> session.run(None, {"image": image, "kdguard_key": key_tensor(secret)})
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from kdguard.export.graph_bodies import nodes_with_bodies
from kdguard.export.onnx_files import default_opset
from kdguard.graph_passes.insert_svd_perturb import MIN_IR_VERSION, STRENGTH
from kdguard.graph_passes.key_gate.functions import gate_functions
from kdguard.graph_passes.key_gate.inventory import DEFAULT_RANK, Hint, KeyGate, drivable_layers, read_gate
from kdguard.graph_passes.key_gate.keys import GateSecret, KeyDigest
from kdguard.graph_passes.key_gate.lattice_hash import DEFAULT_SEED, KEY_BITS, public_matrix
from kdguard.graph_passes.key_gate.names import (
    DIGESTS,
    GATE,
    GATE_DOMAIN,
    GATE_PREFIX,
    GATE_VERSION,
    HINT,
    HINT_PREFIX,
    KEY_INPUT,
    MATRIX,
    METADATA_KEY,
    OPEN,
    STRENGTH_OUT,
)
from kdguard.graph_passes.layers import Layer, find_layers, find_obstacles, infer_value_infos, select_layers
from kdguard.graph_passes.op import MIN_OPSET
from kdguard.graph_passes.op.attributes import DOMAIN, PERTURB
from kdguard.graph_passes.pass_base import GraphPass, PassResult, PreconditionError
from kdguard.graph_passes.remove_key_gate import RemoveKeyGate

MAX_HOLDERS = 64
MAX_RANK = 16


class InsertKeyGate(GraphPass):
    """Add the input `kdguard_key`, check it against the digests, and let the result drive strengths and hints.

    1. The key is optional: without it, the model answers bit for bit as before. Where `required`, it is an input of
       fixed length, as engines need it, and 0.5 everywhere means none.
    2. A right key sets the strength of paired and of uncompensated in-path nodes to 0. Compensated ones stay as they
       are, because the weights behind them were fitted to the perturbed map.
    3. Each hint is a further output `kdguard_hint/LAYER`, float32 [N, rank, spatial...]: the top components of the
       clean map where the gate is open, no images (N = 0) or, where the key is required, zeros where it is shut.
    4. No key is stored, only its hash. Digests are kept in sorted order, each once.
    5. A model that has this very gate is left alone; with another one it is refused.
    """

    def __init__(
        self,
        digests: Sequence[KeyDigest],
        hints: Sequence[Hint] = (),
        *,
        required: bool = False,
        seed: bytes = DEFAULT_SEED,
    ) -> None:
        """Set it up.

        Args:
            digests: one per key holder, made with `seed`.
            required: make the key an input that must be fed.
            seed: of the public matrix.
        """
        self.digests = tuple(sorted(set(digests)))
        self.hints = tuple(sorted(hints))
        self.required = required
        self.seed = seed

    def requires(self, model: onnx.ModelProto) -> None:
        if not 1 <= len(self.digests) <= MAX_HOLDERS:
            raise PreconditionError(f"a gate has 1 to {MAX_HOLDERS} key holders, and {len(self.digests)} were given")
        if (opset := default_opset(model)) < MIN_OPSET:
            raise PreconditionError(f"the model uses opset {opset} and the gate needs {MIN_OPSET} or newer")
        if (present := read_gate(model)) is not None:
            if present != self._wanted(model):
                raise PreconditionError("the model already has another key gate; gate the hardened model without one")
            return
        if any(function.domain == GATE_DOMAIN for function in model.functions):
            raise PreconditionError(f"the model has functions in the domain {GATE_DOMAIN!r}, which is the key gate's")
        for name in _names(model):
            if name == KEY_INPUT or name.startswith((HINT_PREFIX, GATE_PREFIX)):
                raise PreconditionError(f"tensor {name!r} has a name that the key gate keeps for its own; rename it")
        if any(node.name.startswith(GATE_PREFIX) for node in model.graph.node):
            raise PreconditionError(f"a node's name starts with {GATE_PREFIX!r}, which is the key gate's; rename it")
        if any(entry.key == METADATA_KEY for entry in model.metadata_props):
            raise PreconditionError(f"the model has metadata {METADATA_KEY!r} and no key gate; take them out")
        if not drivable_layers(model) and not self.hints:
            raise PreconditionError(
                "there is nothing for a key to open: the model has no hardened layer that a key may switch off "
                "(compensated ones stay on), and no hints were asked for; harden it, or name hint layers"
            )
        if self.hints:
            self._check_hints(model)

    def _check_hints(self, model: onnx.ModelProto) -> None:
        values = infer_value_infos(model)
        layers, obstacles = {layer.name for layer in find_layers(model, values)}, find_obstacles(model, values)
        if len({hint.layer for hint in self.hints}) < len(self.hints):
            raise PreconditionError("a layer is named twice among the hints; each gives one")
        for hint in self.hints:
            if hint.layer not in layers:
                why = obstacles.get(hint.layer, "it is no feature map of this model")
                raise PreconditionError(f"hint layer {hint.layer!r}: {why}; see `kdguard inspect MODEL`")
            if type(hint.rank) is not int or not 1 <= hint.rank <= MAX_RANK:
                raise PreconditionError(f"hint layer {hint.layer!r}: rank {hint.rank} is not one of 1 to {MAX_RANK}")

    def _wanted(self, model: onnx.ModelProto) -> KeyGate:
        driven = tuple(entry.layer for entry in drivable_layers(model))
        return KeyGate(self.digests, self.hints, self.required, self.seed, driven)

    def call(self, model: onnx.ModelProto) -> PassResult:
        if read_gate(model) is not None:
            return PassResult(model, modified=False)
        layers = {layer.name: layer for layer in find_layers(model)} if self.hints else {}
        driven = {entry.layer for entry in drivable_layers(model)}
        result = onnx.ModelProto()
        result.CopyFrom(model)
        graph = result.graph
        clean = {}
        for node in graph.node:
            if (node.domain, node.op_type) == (DOMAIN, PERTURB):
                clean[node.output[0]] = node.input[0]
                if node.output[0] in driven:
                    node.input[1] = STRENGTH_OUT
        gate = helper.make_node(
            GATE,
            [KEY_INPUT, MATRIX, DIGESTS, STRENGTH],
            [STRENGTH_OUT, OPEN],
            f"{GATE_PREFIX}{GATE}",
            domain=GATE_DOMAIN,
        )
        graph.node.insert(0, gate)
        self._add_constants(graph)
        graph.input.append(
            helper.make_tensor_value_info(
                KEY_INPUT, TensorProto.FLOAT, [KEY_BITS if self.required else f"{KEY_INPUT}_length"]
            )
        )
        for hint in self.hints:
            self._add_hint(graph, layers[hint.layer], clean.get(hint.layer, hint.layer), hint.rank)
        result.opset_import.append(helper.make_opsetid(GATE_DOMAIN, GATE_VERSION))
        result.ir_version = max(result.ir_version, MIN_IR_VERSION)
        hinted = bool(self.hints)
        result.functions.extend(gate_functions(default_opset(model), hints=hinted, always=self.required))
        result.metadata_props.add(key=METADATA_KEY, value=self.seed.hex())
        return PassResult(result, modified=True)

    def _add_constants(self, graph: onnx.GraphProto) -> None:
        digests = np.frombuffer(b"".join(digest.residues for digest in self.digests), np.uint8)
        constants = {MATRIX: public_matrix(self.seed), DIGESTS: digests.reshape(len(self.digests), -1)}
        if not self.required:
            constants[KEY_INPUT] = np.zeros(0, np.float32)
        if STRENGTH not in {tensor.name for tensor in graph.initializer}:
            constants[STRENGTH] = np.array(1, np.float32)
        graph.initializer.extend(numpy_helper.from_array(value, name) for name, value in constants.items())

    def _add_hint(self, graph: onnx.GraphProto, layer: Layer, source: str, rank: int) -> None:
        output = f"{HINT_PREFIX}{layer.name}"
        name = f"{GATE_PREFIX}{HINT}/{layer.name}"
        graph.node.append(helper.make_node(HINT, [source, OPEN], [output], name, domain=GATE_DOMAIN, rank=rank))
        sides = [None, rank, *[None] * (len(layer.shape) - 2)]
        graph.output.append(helper.make_tensor_value_info(output, TensorProto.FLOAT, sides))


def gate_model(
    model: onnx.ModelProto,
    holders: Sequence[GateSecret | KeyDigest],
    hint_layers: Sequence[str] | Mapping[str, int] = (),
    *,
    required: bool = False,
    seed: bytes = DEFAULT_SEED,
) -> onnx.ModelProto:
    """A hardened model with a key gate.

    Args:
        holders: their secrets, or the digests that they sent, made with `seed`.
        hint_layers: globs on tensor or node names, with the rank of each where it is a mapping; else rank 4.
        required: as engines need it, see `InsertKeyGate`.
        seed: of the public matrix.

    Raises:
        UserError: a glob matches no layer, there is nothing to gate, or the model has another gate.
    """
    digests = [holder if isinstance(holder, KeyDigest) else KeyDigest.of(holder, seed) for holder in holders]
    ranks = dict(hint_layers) if isinstance(hint_layers, Mapping) else dict.fromkeys(hint_layers, DEFAULT_RANK)
    hints = {}
    if ranks:
        values = infer_value_infos(model)
        layers, obstacles = find_layers(model, values), find_obstacles(model, values)
        for glob, rank in ranks.items():
            for layer in select_layers(layers, [glob], obstacles=obstacles, option="--hints"):
                hints[layer.name] = Hint(layer.name, rank)
    return InsertKeyGate(digests, list(hints.values()), required=required, seed=seed)(model).model


def with_required_key(model: onnx.ModelProto) -> onnx.ModelProto:
    """The model with its key gate, if it has one, in the form that engines need: see `InsertKeyGate`."""
    gate = read_gate(model)
    if gate is None or gate.required:
        return model
    again = InsertKeyGate(gate.digests, gate.hints, required=True, seed=gate.seed)
    return again(RemoveKeyGate()(model).model).model


def _names(model: onnx.ModelProto) -> set[str]:
    """Every tensor, those in bodies included."""
    graph = model.graph
    found = {name for node in nodes_with_bodies(graph.node) for name in (*node.input, *node.output)}
    return found | {entry.name for entries in (graph.input, graph.initializer) for entry in entries}
