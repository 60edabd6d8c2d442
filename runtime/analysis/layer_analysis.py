"""The result of analysing a model: typed, stored as JSON, read by whoever chooses layers."""

from __future__ import annotations

from pydantic import BaseModel, Field

SHARES = (1, 2, 4, 8)
"""Ranks for which the share of energy is stated."""


class LayerAnalysis(BaseModel):
    """One feature map, measured on calibration images."""

    name: str
    op_type: str
    readers: list[str] = Field(description="operators that read it")
    shape: list[int] = Field(description="[N, C, H, W] at the size of the analysis")
    depth: float = Field(description="share of the model's cost that lies before it")
    dtype: str
    values: int = Field(description="of the map at the size of a whole calibration image")
    energy: float = Field(description="mean square")
    variation: float = Field(description="mean square after the channel means are taken out")
    energy_share: dict[int, float] = Field(description="share of the energy in the top k singular values, by k")
    centred_share: dict[int, float] = Field(description="the same of the centred map")
    subspace_variation: float = Field(
        description="how much the centred top-2 subspace differs between images: 0 the same, 1 orthogonal"
    )
    sensitivity_db: float | None = Field(
        None,
        description="PSNR against ground truth lost per unit of in-path gain, at gain 1.1; negative where it rises",
    )
    psnr_between_db: float | None = Field(None, description="output at in-path gain 1.1 against the clean one")
    influences: bool = Field(True, description="perturbing it, hard, changes the output at all")
    dead: bool = Field(False, description="no energy, or the same value everywhere")


class Analysis(BaseModel):
    """A model's feature maps in graph order."""

    input_shape: list[int] = Field(description="of the crops that were analysed")
    images: int
    whole_shape: list[int] = Field(description="of a whole calibration image, for which costs are counted")
    cost: float = Field(description="of one run on it, in multiply-adds of convolution")
    layers: list[LayerAnalysis]
    skipped: dict[str, str] = Field(description="feature maps that were not analysed, and why")

    def by_name(self) -> dict[str, LayerAnalysis]:
        """Layers by tensor name."""
        return {layer.name: layer for layer in self.layers}
