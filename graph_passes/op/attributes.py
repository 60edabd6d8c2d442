"""The op's attributes: one typed description that nodes, manifest and reference share."""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

DOMAIN = "kdguard"
VERSION = 1
PLUGIN_NAMESPACE = "kdguard"
"""TensorRT's parser prefers a plugin to the local function only where the node names a namespace."""

PERTURB, RESTORE, PROJECTOR = "SvdPerturb", "SvdRestore", "TopKProjector"
OP_TYPES = (PERTURB, RESTORE, PROJECTOR)
Rank = Annotated[int, Field(ge=1, le=16)]
Gain = Annotated[float, Field(gt=0, le=1e6, allow_inf_nan=False)]
"""The upper bound is far above any use and far below where float32 overflows."""


class SvdPerturbAttributes(BaseModel):
    """Attributes of one `SvdPerturb` node and of the `SvdRestore` that undoes it.

    `adaptive`, `modulation`, `pattern` and `coherence` are part of the signature of version 1 and
    are constants in this release: only their neutral value, which is plain ASVP, is accepted.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    rank: Rank = Field(4, description="how many singular values, k")
    gain: Gain = Field(1.0, description="factor on each of them, h")
    centred: bool = Field(False, description="subtract the channel mean before the SVD")
    adaptive: float = Field(0.0, ge=0, le=0, description="image-adaptive part of the gain; 0 = off")
    modulation: int = Field(0, ge=0, le=0, description="modulation over positions; 0 = none")
    pattern: tuple[float, ...] = Field((0.0,), max_length=1, description="keyed pattern; unused")
    coherence: float = Field(0.0, ge=0, le=0, description="cap in local feature norms; 0 = none")

    def node_attributes(self) -> dict[str, object]:
        """The attributes as ONNX node attributes; switches become integers."""
        return {
            "rank": self.rank,
            "gain": float(self.gain),
            "centred": int(self.centred),
            "adaptive": float(self.adaptive),
            "modulation": self.modulation,
            "pattern": list(self.pattern),
            "coherence": float(self.coherence),
            "plugin_namespace": PLUGIN_NAMESPACE,
        }
