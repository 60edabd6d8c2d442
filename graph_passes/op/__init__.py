"""The op: `kdguard::SvdPerturb`, `kdguard::SvdRestore` and their inner `kdguard::TopKProjector`.

All three are model-local functions of standard ONNX ops, so a hardened file runs in any runtime
with no library of ours. Semantics are in docs/op.md; `reference` is the same thing in NumPy.
"""

from kdguard.graph_passes.op.attributes import DOMAIN, OP_TYPES, VERSION, SvdPerturbAttributes
from kdguard.graph_passes.op.functions import MIN_OPSET, op_functions

__all__ = ["DOMAIN", "MIN_OPSET", "OP_TYPES", "VERSION", "SvdPerturbAttributes", "op_functions"]
