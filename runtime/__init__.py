"""Running, measuring and attacking hardened models, and the command line over it all.

The top layer of kdguard, built on `export` and `graph_passes`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from kdguard.runtime.opened_model import OpenedModel, open_model

__all__ = ["OpenedModel", "open_model"]


def __getattr__(name: str) -> Any:
    # Imported when it is asked for: `kdguard --help` needs none of it.
    if name in __all__:
        from kdguard.runtime import opened_model

        return getattr(opened_model, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
