"""What gate a model has, read back from the model itself."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import numpy_helper

from kdguard.export.errors import UserError
from kdguard.export.onnx_files import default_opset
from kdguard.graph_passes.insert_svd_perturb import STRENGTH
from kdguard.graph_passes.inventory import HardenedLayer, hardened_layers
from kdguard.graph_passes.key_gate.functions import gate_functions
from kdguard.graph_passes.key_gate.keys import KeyDigest
from kdguard.graph_passes.key_gate.lattice_hash import DEFAULT_SEED, RESIDUES, public_matrix
from kdguard.graph_passes.key_gate.names import (
    DIGESTS,
    GATE,
    GATE_DOMAIN,
    HINT,
    HINT_PREFIX,
    KEY_INPUT,
    MATRIX,
    METADATA_KEY,
    OPEN,
    STRENGTH_OUT,
)
from kdguard.graph_passes.key_gate.views import is_genuine
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

    1. Its nodes, constants and functions are those that this version puts in: one that opens for everybody is none.
    2. It has digests, and its matrix comes from the seed that the model states.

    Raises:
        UserError: otherwise.
    """
    nodes = [node for node in model.graph.node if node.domain == GATE_DOMAIN]
    if not any(node.op_type == GATE for node in nodes):
        return None
    constants = {tensor.name: tensor for tensor in model.graph.initializer}
    metadata = {entry.key: entry.value for entry in model.metadata_props}
    try:
        seed = bytes.fromhex(metadata.get(METADATA_KEY, DEFAULT_SEED.hex()))
        digests, matrix = (numpy_helper.to_array(constants[name]) for name in (DIGESTS, MATRIX))
        if not _is_wired(nodes) or not _has_form(digests) or not _is_absent(constants.get(KEY_INPUT)):
            raise ValueError("not as it is put in")
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
    if matrix.dtype != np.uint8 or not np.array_equal(matrix, public_matrix(seed)):
        raise UserError("the matrix of the model's key gate does not come from the seed that the model states")
    _check_functions(model, gate)
    return gate


def _is_wired(nodes: Sequence[onnx.NodeProto]) -> bool:
    """Whether one node checks the key, and the hints listen to it."""
    (gate,) = (node for node in nodes if node.op_type == GATE)
    hints = [node for node in nodes if node.op_type == HINT]
    return (
        list(gate.input) == [KEY_INPUT, MATRIX, DIGESTS, STRENGTH]
        and list(gate.output) == [STRENGTH_OUT, OPEN]
        and all(len(hint.input) == 2 and hint.input[1] == OPEN for hint in hints)
    )


def _has_form(digests: NDArray[Any]) -> bool:
    """Whether these are rows of a digest each, one at least."""
    return digests.dtype == np.uint8 and digests.ndim == 2 and len(digests) > 0 and digests.shape[1] == RESIDUES


def _is_absent(default: onnx.TensorProto | None) -> bool:
    """Whether the key that a model feeds itself, where it does, is none."""
    return default is None or numpy_helper.to_array(default).size == 0


def _check_functions(model: onnx.ModelProto, gate: KeyGate) -> None:
    """See that the gate's functions are those that this version writes.

    Raises:
        UserError: they are not.
    """
    expected = gate_functions(default_opset(model), hints=bool(gate.hints), always=gate.required)
    for function in expected:
        present = [f for f in model.functions if (f.domain, f.name) == (function.domain, function.name)]
        if present != [function]:
            raise UserError(
                f"the function {function.name} of the model's key gate is not the one that this version of kdguard "
                "writes: it may let in anybody; gate the hardened model anew"
            )
    if not is_genuine(model, default_opset(model)):
        raise UserError(
            "the self-ensemble of the model's key gate is not one that this version of kdguard puts in: it may be open "
            "to anybody; gate the hardened model anew"
        )


def _as_hint(node: onnx.NodeProto) -> Hint:
    return Hint(node.output[0].removeprefix(HINT_PREFIX), onnx.helper.get_node_attr_value(node, "rank"))
