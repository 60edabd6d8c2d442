"""Which share of the hardened model's time our nodes take.

With native kernels they are nodes of their own in onnxruntime's profile. As functions they are not: onnxruntime inlines
a function, gives its nodes new names and fuses some with those around them, so that their time cannot be told from the
model's. The share is then what the clean model does not take.
"""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any

from kdguard.graph_passes.op.attributes import OP_TYPES
from kdguard.runtime.bench.options import ProviderName
from kdguard.runtime.bench.results import BY_DIFFERENCE, BY_PROFILER, OpShare, Ratio
from kdguard.runtime.bench.subject import Subject
from kdguard.runtime.session import RestorationSession


def measure_share(subject: Subject, provider: ProviderName, threads: int, rounds: int) -> OpShare:
    """By the profiler, over so many runs after one to warm up; for a session that runs native kernels."""
    with tempfile.TemporaryDirectory() as folder:
        session = RestorationSession(
            subject.models[1], subject.card, provider=provider, threads=threads, profile=Path(folder) / "profile"
        )
        for _ in range(rounds + 1):
            session.run(subject.tensor)
        events = json.loads(session.end_profiling().read_text())
    return OpShare(share=share_of_ours(events), method=BY_PROFILER)


def share_by_difference(slowdown: Ratio) -> OpShare:
    """From hardened over clean time: 1 - clean / hardened. It counts what the nodes keep from being fused."""
    return OpShare(share=1 - 1 / slowdown.median, method=BY_DIFFERENCE)


def share_of_ours(events: list[dict[str, Any]]) -> float:
    """Time of our nodes over time of the runs, the first one left out.

    Args:
        events: of onnxruntime's profile; times in microseconds.
    """
    runs = [event for event in events if event["name"] == "model_run"][1:]
    nodes = [event for event in events if event.get("cat") == "Node" and event["ts"] >= runs[0]["ts"]]
    ours = sum(event["dur"] for event in nodes if event["args"].get("op_name") in OP_TYPES)
    return float(ours / sum(event["dur"] for event in runs))
