"""The share of our nodes, from a profile that is known. tests/runtime/test_native.py takes a real one."""

from __future__ import annotations

from typing import Any

import pytest

from kdguard.runtime.bench.op_share import share_by_difference, share_of_ours
from kdguard.runtime.bench.results import Ratio


def event(name: str, start: int, took: int, operator: str = "") -> dict[str, Any]:
    kind = {"cat": "Node", "args": {"op_name": operator}} if operator else {"cat": "Session", "args": {}}
    return {"name": name, "ts": start, "dur": took, **kind}


def test_the_first_run_does_not_count() -> None:
    events = [
        event("session_initialization", 0, 900),
        event("perturb", 1010, 900, "SvdPerturb"),
        event("model_run", 1000, 1000),
        event("conv", 3000, 70, "Conv"),
        event("perturb", 3080, 20, "SvdPerturb"),
        event("restore", 3090, 5, "SvdRestore"),
        event("model_run", 3000, 100),
        event("perturb", 4080, 55, "SvdPerturb"),
        event("model_run", 4000, 300),
    ]
    assert share_of_ours(events) == pytest.approx(80 / 400)


def test_by_difference() -> None:
    found = share_by_difference(Ratio(median=1.25, n=3))
    assert found.share == pytest.approx(0.2)
    assert found.method == "1 - clean / hardened"
