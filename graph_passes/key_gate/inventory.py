"""What gate a model has, read back from the model itself."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx
from onnx import numpy_helper

from kdguard.export.errors import UserError
from kdguard.graph_passes.inventory import HardenedLayer, hardened_layers
from kdguard.graph_passes.key_gate.keys import KeyDigest
from kdguard.graph_passes.key_gate.lattice_hash import DEFAULT_SEED, public_matrix
from kdguard.graph_passes.key_gate.names import (
    DIGESTS,
    GATE,
    GATE_DOMAIN,
    HINT,
    HINT_PREFIX,
    KEY_INPUT,
    MATRIX,
    METADATA_KEY,
    STRENGTH_OUT,
)
from kdguard.graph_passes.op.attributes import DOMAIN, PERTURB
from kdguard.graph_passes.refit_consumers import refitted_outputs

DEFAULT_RANK = 4


@dataclass(frozen=True, order=True)
class Hint:
    """One layer whose top components a key holder gets.

    Attributes:
        layer: name of its tensor.
        rank: how many components, 1 to 16.
    """

    layer: str
    rank: int = DEFAULT_RANK


@dataclass(frozen=True)
class KeyGate:
    """A model's gate.

    Attributes:
        digests: one per key holder, sorted.
        hints: sorted by layer.
        required: whether the key is an input that must be fed, as an engine needs it.
        seed: of the public matrix.
        driven: hardened layers whose perturbation a right key switches off.
    """

    digests: tuple[KeyDigest, ...]
    hints: tuple[Hint, ...]
    required: bool
    seed: bytes
    driven: tuple[str, ...]

    def summary(self) -> dict[str, list[str] | dict[str, int]]:
        """Holders by the short names of their digests, hints with their ranks, driven layers; nothing secret."""
        return {
            "holders": [digest.name for digest in self.digests],
            "hints": {hint.layer: hint.rank for hint in self.hints},
            "driven": list(self.driven),
        }

    def describe(self) -> str:
        """In one line."""
        hints = ", ".join(f"{hint.layer} (rank {hint.rank})" for hint in self.hints) or "none"
        holders = ", ".join(digest.name for digest in self.digests)
        return f"holders {holders}; a key switches off {', '.join(self.driven) or 'no layer'}; hints: {hints}"


def drivable_layers(model: onnx.ModelProto) -> list[HardenedLayer]:
    """Hardened layers that a key may switch off.

    All but compensated ones: what reads those was fitted to the perturbed map, and the clean one would spoil the
    output for the key holder.
    """
    refitted = refitted_outputs(model)
    readers: dict[str, set[str]] = {}
    for node in model.graph.node:
        for name in node.input:
            readers.setdefault(name, set()).update(node.output)
    return [entry for entry in hardened_layers(model) if not readers.get(entry.layer, set()) & refitted]


def read_gate(model: onnx.ModelProto) -> KeyGate | None:
    """The gate of a model, or None where it has none.

    Raises:
        UserError: it is not one that this version makes, or its matrix is not the public one.
    """
    nodes = [node for node in model.graph.node if node.domain == GATE_DOMAIN]
    if not any(node.op_type == GATE for node in nodes):
        return None
    constants = {tensor.name: tensor for tensor in model.graph.initializer}
    metadata = {entry.key: entry.value for entry in model.metadata_props}
    try:
        seed = bytes.fromhex(metadata.get(METADATA_KEY, DEFAULT_SEED.hex()))
        digests, matrix = (numpy_helper.to_array(constants[name]) for name in (DIGESTS, MATRIX))
        gate = KeyGate(
            digests=tuple(KeyDigest(row.tobytes()) for row in digests),
            hints=tuple(sorted(_as_hint(node) for node in nodes if node.op_type == HINT)),
            required=KEY_INPUT not in constants,
            seed=seed,
            driven=tuple(
                node.output[0]
                for node in model.graph.node
                if (node.domain, node.op_type) == (DOMAIN, PERTURB) and STRENGTH_OUT in node.input
            ),
        )
    except (KeyError, ValueError, TypeError, IndexError) as error:
        raise UserError("the model's key gate is damaged, or another version made it; gate the model again") from error
    if not np.array_equal(matrix, public_matrix(seed)):
        raise UserError("the matrix of the model's key gate does not come from the seed that the model states")
    return gate


def _as_hint(node: onnx.NodeProto) -> Hint:
    return Hint(node.output[0].removeprefix(HINT_PREFIX), onnx.helper.get_node_attr_value(node, "rank"))
