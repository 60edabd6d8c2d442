"""The op: `kdguard::SvdPerturb`, `kdguard::SvdRestore` and their inner `kdguard::TopKProjector`.

All three are model-local functions of standard ONNX ops, so a hardened file runs in any runtime
with no library of ours. Semantics are in docs/op.md; `reference` is the same thing in NumPy, and needs
nothing else: what needs onnx or pydantic is imported when it is asked for.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from kdguard.graph_passes.op.attributes import DOMAIN, OP_TYPES, VERSION, SvdPerturbAttributes
    from kdguard.graph_passes.op.functions import MIN_OPSET, op_functions

__all__ = ["DOMAIN", "MIN_OPSET", "OP_TYPES", "VERSION", "SvdPerturbAttributes", "op_functions"]
_OF_FUNCTIONS = ("MIN_OPSET", "op_functions")


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module = "functions" if name in _OF_FUNCTIONS else "attributes"
    return getattr(import_module(f"{__name__}.{module}"), name)
