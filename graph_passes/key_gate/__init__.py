"""The key gate's parts: the hash, secrets and digests, its ONNX functions, and reading a gate back from a model.

`insert_key_gate.py` puts it into a model and `remove_key_gate.py` takes it out; docs/key-gate.md says what it is for.
"""

from kdguard.graph_passes.key_gate.inventory import Hint, KeyGate, read_gate
from kdguard.graph_passes.key_gate.keys import GateSecret, KeyDigest, key_tensor, new_gate_secret
from kdguard.graph_passes.key_gate.lattice_hash import KEY_BITS
from kdguard.graph_passes.key_gate.names import ENSEMBLE_OUTPUT, GATE_DOMAIN, HINT_PREFIX, KEY_INPUT, SPREAD_OUTPUT

__all__ = [
    "ENSEMBLE_OUTPUT",
    "GATE_DOMAIN",
    "HINT_PREFIX",
    "KEY_BITS",
    "KEY_INPUT",
    "SPREAD_OUTPUT",
    "GateSecret",
    "Hint",
    "KeyDigest",
    "KeyGate",
    "key_tensor",
    "new_gate_secret",
    "read_gate",
]
