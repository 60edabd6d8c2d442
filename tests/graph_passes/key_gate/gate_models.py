"""The gate without a model behind it."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper, numpy_helper

from kdguard.graph_passes.key_gate import GATE_DOMAIN, KEY_INPUT, GateSecret, KeyDigest
from kdguard.graph_passes.key_gate.functions import gate_functions
from kdguard.graph_passes.key_gate.lattice_hash import public_matrix
from kdguard.graph_passes.key_gate.names import DIGESTS


def secret(number: int) -> GateSecret:
    """The same for the same number."""
    return GateSecret(np.random.default_rng(number).bytes(32))


def gate_only(holders: Sequence[GateSecret], opset: int = 18) -> onnx.ModelProto:
    """kdguard_key -> KeyGate -> strength, open."""
    digests = np.stack([np.frombuffer(KeyDigest.of(holder).residues, np.uint8) for holder in holders])
    constants = {"matrix": public_matrix(), "digests": digests, "one": np.array(1, np.float32)}
    inputs = [KEY_INPUT, "matrix", "digests", "one"]
    graph = helper.make_graph(
        [helper.make_node("KeyGate", inputs, ["strength", "open"], domain=GATE_DOMAIN)],
        "gate",
        [helper.make_tensor_value_info(KEY_INPUT, TensorProto.FLOAT, ["length"])],
        [
            helper.make_tensor_value_info("strength", TensorProto.FLOAT, []),
            helper.make_tensor_value_info("open", TensorProto.BOOL, []),
        ],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    opsets = [helper.make_opsetid("", opset), helper.make_opsetid(GATE_DOMAIN, 1)]
    functions = gate_functions(opset, hints=False, always=False)
    return helper.make_model(graph, opset_imports=opsets, functions=functions, ir_version=10)


def with_digests(model: onnx.ModelProto, *rows: np.ndarray) -> onnx.ModelProto:
    """A gated model whose digests somebody exchanged in the file."""
    forged = onnx.ModelProto()
    forged.CopyFrom(model)
    digests = next(tensor for tensor in forged.graph.initializer if tensor.name == DIGESTS)
    digests.CopyFrom(numpy_helper.from_array(np.stack(rows), DIGESTS))
    return forged


class GateSession:
    """Runs it."""

    def __init__(self, model: onnx.ModelProto) -> None:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        self._session = onnxruntime.InferenceSession(
            model.SerializeToString(), options, providers=["CPUExecutionProvider"]
        )

    def opens(self, key: np.ndarray) -> bool:
        """Whether a key opens; strength and switch must agree."""
        strength, is_open = self._session.run(None, {KEY_INPUT: np.asarray(key, np.float32)})
        assert float(strength) == (0.0 if is_open else 1.0)
        return bool(is_open)
