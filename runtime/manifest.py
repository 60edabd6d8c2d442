"""The manifest that `kdguard harden` writes beside the hardened model: what was done, to what, and why."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path

from pydantic import BaseModel, Field

from kdguard.export.onnx_files import sha256_of_model
from kdguard.graph_passes.inventory import HardenedLayer
from kdguard.runtime.fidelity import FidelityReport
from kdguard.runtime.strip import StripReport
from kdguard.runtime.tile_check import TilingReport

UNKNOWN_PLACEMENT = "in-path or compensated"
"""What the graph alone tells of a node that is not restored."""


class ManifestLayer(BaseModel):
    """One protected feature map."""

    layer: str
    op_type: str
    placement: str = Field(description="paired, in-path, or compensated: in-path with its readers refitted")
    rank: int
    gain: float
    centred: bool
    adaptive: float = 0.0
    modulation: int = 0
    coherence: float = 0.0
    stride: int = 1
    nodes: list[str]
    refitted: list[str] = Field(default_factory=list, description="outputs of the convolutions with new weights")
    reason: str = Field("", description="why this layer")
    relative_distortion: float | None = Field(
        None,
        description="mean over images of |perturbed - clean| / |clean| (Frobenius); None without data, and for layers "
        "that the given file had hardened already",
    )


class Coverage(BaseModel):
    """How many taps between the first and the last third of the network mislead."""

    perturbed: int = Field(description="by paired nodes; compensated maps are moved less, and not counted")
    taps: int = Field(description="feature maps there that could be perturbed")


class ManifestGate(BaseModel):
    """The key gate in a model; nothing in it is secret."""

    hardened: str = Field(description="file name of the model without the gate")
    holders: list[str] = Field(description="short names of their digests")
    hints: dict[str, int] = Field(description="layers that a key opens hints of, and how many components of each")
    driven: list[str] = Field(description="hardened layers that a key switches to the clean map")
    views: list[int] = Field(default_factory=list, description="flips in the self-ensemble that a key opens, by number")


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
    rules: list[str] = Field(default_factory=list, description="by which layers and gains were chosen")
    coverage: Coverage | None = Field(None, description="None where no layers were chosen for paired nodes")
    skipped: dict[str, str] = Field(default_factory=dict, description="feature maps passed over, and why")
    notes: list[str] = Field(default_factory=list)
    estimated_slowdown: float | None = Field(
        None, description="hardened over clean time by the cost model, not timed; None without data"
    )
    budget_db: float
    measured_loss_db: float | None = Field(None, description="None where no data was given")
    fidelity: FidelityReport | None = None
    strip: StripReport | None = Field(None, description="what deleting the nodes gives an attacker (tier T1s)")
    tiling: TilingReport | None = None
    gate: ManifestGate | None = Field(None, description="None where no key opens anything")
    seed: int


def manifest_path(hardened: Path) -> Path:
    """Where the manifest of a hardened model lies."""
    stem = hardened.stem if hardened.suffix == ".onnx" else hardened.name
    return hardened.parent / f"{stem}.manifest.json"


def find_manifest(hardened: Path) -> Manifest | None:
    """The manifest beside a hardened file, or of its run folder; None where none speaks of this very file."""
    for path in (manifest_path(hardened), hardened.with_name("manifest.json")):
        try:
            found = Manifest.model_validate_json(path.read_bytes())
        except (OSError, ValueError):  # none there, or somebody else's: the model is read all the same
            continue
        if found.hardened_sha256 == sha256_of_model(hardened):
            return found
    return None


def other_teacher(hardened: Path, teacher: Path) -> str:
    """That a hardened file was made from another teacher, where its manifest says so; else nothing."""
    found = find_manifest(hardened)
    if found is None or found.teacher_sha256 == sha256_of_model(teacher):
        return ""
    return f"{hardened} was hardened from another teacher than {teacher}, by its manifest from {found.teacher}"


def tell_placements(inserted: Sequence[HardenedLayer], manifest: Manifest | None) -> list[HardenedLayer]:
    """The layers of a file with the placements that its manifest tells: refitted readers look like any others."""
    known = {entry.layer: entry.placement for entry in manifest.layers} if manifest else {}
    return [
        entry if entry.placement == "paired" else replace(entry, placement=known.get(entry.layer, UNKNOWN_PLACEMENT))
        for entry in inserted
    ]


def describe_layers(
    inserted: Sequence[HardenedLayer],
    distortions: Mapping[str, float],
    reasons: Mapping[str, str],
    refitted: Mapping[str, Sequence[str]],
) -> list[ManifestLayer]:
    """Manifest entries of the layers found in a hardened model.

    Args:
        refitted: per layer the outputs of its refitted readers; only compensated layers are in it.
    """
    return [
        ManifestLayer.model_validate(
            {
                **entry.attributes,
                "layer": entry.layer,
                "op_type": entry.op_type,
                "placement": "compensated" if entry.layer in refitted else entry.placement,
                "nodes": list(entry.nodes),
                "refitted": list(refitted.get(entry.layer, ())),
                "reason": reasons.get(entry.layer, ""),
                "relative_distortion": distortions.get(entry.layer),
            }
        )
        for entry in inserted
    ]
