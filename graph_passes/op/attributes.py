"""The op's attributes: one typed description that nodes, manifest and reference share."""

from __future__ import annotations

import math
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, model_validator

from kdguard.graph_passes.op.conventions import Modulation

DOMAIN = "kdguard"
VERSION = 1
PLUGIN_NAMESPACE = "kdguard"
"""TensorRT's parser prefers a plugin to the local function only where the node names a namespace."""

PERTURB, RESTORE, PROJECTOR = "SvdPerturb", "SvdRestore", "TopKProjector"
OP_TYPES = (PERTURB, RESTORE, PROJECTOR)

Rank = Annotated[int, Field(ge=1, le=16)]
GAIN_LIMIT = 1e6
"""Far above any use and far below where float32 overflows."""
Gain = Annotated[float, Field(gt=0, le=GAIN_LIMIT, allow_inf_nan=False)]
KeyNumber = Annotated[float, Field(ge=-GAIN_LIMIT, le=GAIN_LIMIT, allow_inf_nan=False)]


class SvdPerturbAttributes(BaseModel):
    """Attributes of one `SvdPerturb` node; the defaults are plain ASVP. See docs/op.md for the formulas."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    rank: Rank = Field(4, description="how many singular values, k")
    gain: Gain = Field(1.0, description="factor on each of them, h")
    centred: bool = Field(False, description="subtract the channel mean before the SVD")
    adaptive: float = Field(
        0.0, ge=0, le=1, description="how far the perturbation follows the image's own spectrum; 0 = off"
    )
    modulation: Modulation = Field(
        Modulation.NONE, description="factor over positions: 0 constant, 1 keyed pattern, 2 sign driven by the tail"
    )
    pattern: tuple[KeyNumber, ...] = Field(
        (0.0,),
        min_length=1,
        max_length=65536,
        description="the key: exponents over positions (modulation 1) or weights over channels (2), tiled",
    )
    coherence: float = Field(
        0.0,
        ge=0,
        le=GAIN_LIMIT,
        allow_inf_nan=False,
        description="cap on the perturbation per position, in local norms; 0 = none",
    )
    stride: int = Field(1, ge=1, le=64, description="rows of the map from which the singular vectors are computed")

    shared: bool = Field(
        True, description="hand the change out, for a restorer; without it the output `change` is a single 0"
    )

    @model_validator(mode="after")
    def _key_where_needed(self) -> SvdPerturbAttributes:
        if self.modulation and not any(self.pattern):
            raise ValueError("a modulation needs a pattern that is not all zero")
        if self.modulation == Modulation.PATTERN:
            if max(map(abs, self.pattern)) * abs(math.log(self.gain)) > math.log(GAIN_LIMIT) * (1 + 1e-9):
                raise ValueError(f"gain {self.gain:g} to a power in the pattern is outside 1 / {GAIN_LIMIT:g} to it")
            if self.adaptive and self.gain < 1:
                raise ValueError("an adaptive gain below 1 may turn negative, which has no power; use a gain above 1")
        return self

    def node_attributes(self) -> dict[str, object]:
        """The attributes as ONNX node attributes; switches become integers."""
        return {
            "rank": self.rank,
            "gain": float(self.gain),
            "centred": int(self.centred),
            "adaptive": float(self.adaptive),
            "modulation": int(self.modulation),
            "pattern": list(self.pattern),
            "coherence": float(self.coherence),
            "stride": self.stride,
            "shared": int(self.shared),
            "plugin_namespace": PLUGIN_NAMESPACE,
        }
