"""A gated model on disk: the model and, beside it, the hardened model's manifest with the gate in it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import onnx
from pydantic import Field

from kdguard.export.files import write_json
from kdguard.export.model_card import read_card
from kdguard.export.onnx_files import save_onnx, sha256_of_model
from kdguard.graph_passes.insert_key_gate import gate_model
from kdguard.graph_passes.insert_view_ensemble import InsertViewEnsemble
from kdguard.graph_passes.key_gate import KeyDigest, read_gate
from kdguard.runtime.box.right_key import check_gate
from kdguard.runtime.manifest import ManifestGate, find_manifest, manifest_path
from kdguard.runtime.wording import counted


class GateReport(ManifestGate):
    """What `kdguard gate` did."""

    gated: str = Field(description="file name")
    gated_sha256: str
    checked: bool = Field(description="whether it was seen on photographs to change nothing without a key")
    added_bytes: int = Field(description="what the gate adds to the model")


def write_gated(
    model: onnx.ModelProto,
    hardened: Path,
    gated: Path,
    digests: Sequence[KeyDigest],
    hints: Mapping[str, int],
    ensemble: InsertViewEnsemble | None = None,
) -> tuple[onnx.ModelProto, GateReport]:
    """Put a gate into a model, and write that with its manifest.

    Args:
        hardened: file of `model`.
        gated: file to write.
        digests: as for `gate_model`.
        hints: likewise.
        ensemble: what else a key opens.

    Raises:
        UserError: as `gate_model`, or the folder cannot be written.
        GateFailedError: the gate changes what the model restores, see `check_gate`.
    """
    with_gate = gate_model(model, digests, hints)
    if ensemble is not None:
        with_gate = ensemble(with_gate).model
    card = read_card(model)
    if card is not None:
        check_gate(model, with_gate, card)
    save_onnx(with_gate, gated)
    gate = read_gate(with_gate)
    assert gate is not None
    added = with_gate.ByteSize() - model.ByteSize()
    report = GateReport.model_validate(
        {
            "gated": gated.name,
            "gated_sha256": sha256_of_model(gated),
            "hardened": hardened.name,
            "added_bytes": added,
            "checked": card is not None,
            "views": ensemble.views if ensemble else [],
            **gate.summary(),
        }
    )
    _write_manifest(hardened, gated, report)
    return with_gate, report


def _write_manifest(hardened: Path, gated: Path, report: GateReport) -> None:
    """Write the hardened model's manifest beside the gated one, for its hash; nothing where there is none."""
    found = find_manifest(hardened)
    if found is None:
        return
    ensemble = f", a self-ensemble of {counted(len(report.views), 'view')}" if report.views else ""
    note = (
        f"gated: {counted(len(report.holders), 'key')} ({', '.join(report.holders)}), hints of "
        f"{', '.join(report.hints) or 'no layer'}{ensemble}; from {report.hardened}"
    )
    manifest = found.model_copy(
        update={
            "hardened": gated.name,
            "hardened_sha256": report.gated_sha256,
            "gate": ManifestGate.model_validate(report.model_dump(include=set(ManifestGate.model_fields))),
            "notes": [*found.notes, note],
        }
    )
    write_json(manifest_path(gated), manifest.model_dump())
