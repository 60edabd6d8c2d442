"""The manifest that `kdguard harden` writes beside the hardened model: what was done, to what."""

from __future__ import annotations

from importlib.metadata import version

from pydantic import BaseModel, Field

from kdguard.runtime.fidelity import FidelityReport


class ManifestLayer(BaseModel):
    """One protected feature map."""

    layer: str
    op_type: str
    placement: str
    rank: int
    gain: float
    centred: bool
    nodes: list[str]
    relative_distortion: float | None = Field(
        None,
        description="mean over images of |perturbed - clean| / |clean| (Frobenius); None without data, and for layers "
        "that the given file had hardened already",
    )


class Manifest(BaseModel):
    """Provenance of a hardened model; scanners and people find every unusual node explained here."""

    kdguard_version: str = Field(default_factory=lambda: version("kdguard"))
    teacher: str = Field(description="file name")
    teacher_sha256: str = Field(description="of the file; with external data, of the hashes of all its files")
    hardened: str = Field(description="file name")
    hardened_sha256: str
    converted_from_opset: int | None = Field(
        None, description="the teacher's opset, where it was too old for the op and was converted upward"
    )
    task: str | None
    layers: list[ManifestLayer]
    budget_db: float
    measured_loss_db: float | None = Field(None, description="None where no data was given")
    fidelity: FidelityReport | None = None
    seed: int
