"""What is written down of a gated model: the hardened model's manifest goes on, with the gate in it."""

from __future__ import annotations

from pathlib import Path

import onnx
from pydantic import Field

from kdguard.export.files import write_json
from kdguard.export.onnx_files import sha256_of_model
from kdguard.graph_passes.key_gate import read_gate
from kdguard.runtime.manifest import ManifestGate, find_manifest, manifest_path
from kdguard.runtime.wording import counted


class GateReport(ManifestGate):
    """What `kdguard gate` did."""

    gated: str = Field(description="file name")
    added_bytes: int = Field(description="what the gate adds to the model")


def report_gate(hardened: Path, gated: Path, model: onnx.ModelProto, with_gate: onnx.ModelProto) -> GateReport:
    """What is said of a gate that was put into a model.

    Args:
        hardened: file of `model`.
        gated: file of `with_gate`.
    """
    gate = read_gate(with_gate)
    assert gate is not None
    added = with_gate.ByteSize() - model.ByteSize()
    return GateReport.model_validate(
        {"gated": gated.name, "hardened": hardened.name, "added_bytes": added, **gate.summary()}
    )


def write_gated_manifest(hardened: Path, gated: Path, report: GateReport) -> None:
    """Write the hardened model's manifest beside the gated one, for its hash; nothing where there is none."""
    found = find_manifest(hardened)
    if found is None:
        return
    note = (
        f"gated: {counted(len(report.holders), 'key')} ({', '.join(report.holders)}), hints of "
        f"{', '.join(report.hints) or 'no layer'}; from {report.hardened}"
    )
    manifest = found.model_copy(
        update={
            "hardened": gated.name,
            "hardened_sha256": sha256_of_model(gated),
            "gate": ManifestGate.model_validate(report.model_dump(include=set(ManifestGate.model_fields))),
            "notes": [*found.notes, note],
        }
    )
    write_json(manifest_path(gated), manifest.model_dump())
