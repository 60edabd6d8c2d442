"""What is written down of a gated model: the hardened model's manifest goes on, with the gate in it."""

from __future__ import annotations

from pathlib import Path

from pydantic import BaseModel, Field

from kdguard.export.files import write_json
from kdguard.export.onnx_files import sha256_of_model
from kdguard.runtime.manifest import find_manifest, manifest_path


class GateReport(BaseModel):
    """A gate as it stands in a model; nothing in it is secret."""

    gated: str = Field(description="file name")
    hardened: str = Field(description="file name of the model without the gate")
    holders: list[str] = Field(description="short names of their digests")
    hints: dict[str, int] = Field(description="layers that a key opens hints of, and how many components of each")
    driven: list[str] = Field(description="hardened layers that a key switches to the clean map")
    added_bytes: int


def write_gated_manifest(hardened: Path, gated: Path, report: GateReport) -> None:
    """Write the hardened model's manifest beside the gated one, for its hash; nothing where there is none."""
    found = find_manifest(hardened)
    if found is None:
        return
    note = (
        f"gated: {len(report.holders)} keys ({', '.join(report.holders)}), hints of "
        f"{', '.join(report.hints) or 'no layer'}; from {report.hardened}"
    )
    manifest = found.model_copy(
        update={"hardened": gated.name, "hardened_sha256": sha256_of_model(gated), "notes": [*found.notes, note]}
    )
    write_json(manifest_path(gated), manifest.model_dump())
