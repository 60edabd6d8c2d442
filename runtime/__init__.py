"""Running, measuring and attacking hardened models, and the command line over it all.

The top layer of kdguard, built on `export` and `graph_passes`.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from kdguard.runtime.box.gate_keys import read_gate_secret
    from kdguard.runtime.opened_model import OpenedModel, open_model

__all__ = ["OpenedModel", "open_model", "read_gate_secret"]

_HOMES = {
    "OpenedModel": "kdguard.runtime.opened_model",
    "open_model": "kdguard.runtime.opened_model",
    "read_gate_secret": "kdguard.runtime.box.gate_keys",
}


def __getattr__(name: str) -> Any:
    # Imported when it is asked for: `kdguard --help` needs none of it.
    if name in _HOMES:
        return getattr(import_module(_HOMES[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
