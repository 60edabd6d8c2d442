"""Names that a gated model carries."""

from __future__ import annotations

from kdguard.export.model_card import KEY_INPUT
from kdguard.graph_passes.layers import NAME_PREFIX

__all__ = [
    "DIGESTS",
    "ENSEMBLE",
    "ENSEMBLE_OUTPUT",
    "FIRST",
    "GATE",
    "GATE_DOMAIN",
    "GATE_PREFIX",
    "GATE_VERSION",
    "HINT",
    "HINT_PREFIX",
    "KEY_INPUT",
    "MATRIX",
    "METADATA_KEY",
    "OPEN",
    "PROJECTOR",
    "SPREAD_OUTPUT",
    "STRENGTH_OUT",
    "VIEWS",
    "VIEWS_PREFIX",
]

GATE_DOMAIN = "kdguard.gate"
"""Not the op's domain: once a native library has registered that one, functions in it are not looked at."""
GATE_VERSION = 1
GATE, HINT, PROJECTOR = "KeyGate", "KeyHint", "TopKProjector"
VIEWS, ENSEMBLE, FIRST = "KeyViews", "KeyEnsemble", "KeyFirst"

HINT_PREFIX = "kdguard_hint/"
GATE_PREFIX = f"{NAME_PREFIX}gate/"
ENSEMBLE_OUTPUT, SPREAD_OUTPUT = "kdguard_ensemble", "kdguard_spread"
VIEWS_PREFIX = f"{GATE_PREFIX}views/"
MATRIX, DIGESTS, STRENGTH_OUT, OPEN = (f"{GATE_PREFIX}{part}" for part in ("matrix", "digests", "strength", "open"))
METADATA_KEY = "kdguard.key_gate"
