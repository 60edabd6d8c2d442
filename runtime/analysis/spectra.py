"""Energy, spectrum and top subspace of every feature map, from one session that returns them all."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import combinations

import numpy as np
import onnx
from numpy.typing import NDArray

from kdguard.export.image_tensor import Tensor
from kdguard.export.model_card import ModelCard
from kdguard.runtime.analysis.layer_analysis import SHARES
from kdguard.runtime.session import RestorationSession

DEAD = 1e-12
"""A map whose variation is below this share of its energy, or whose energy is below it, is dead."""


@dataclass
class Spectrum:
    """Sums over images for one layer."""

    shape: tuple[int, ...] = ()
    energies: list[float] = field(default_factory=list)
    variations: list[float] = field(default_factory=list)
    shares: list[list[float]] = field(default_factory=list)
    centred_shares: list[list[float]] = field(default_factory=list)
    subspaces: list[NDArray[np.float64]] = field(default_factory=list)

    @property
    def energy(self) -> float:
        """Mean square over images and positions."""
        return float(np.mean(self.energies))

    @property
    def variation(self) -> float:
        """Mean square around the channel means."""
        return float(np.mean(self.variations))

    @property
    def dead(self) -> bool:
        """Whether there is nothing to perturb."""
        return self.energy < DEAD or self.variation < DEAD * self.energy

    def subspace_variation(self) -> float:
        """1 - |U_a^T U_b|^2 / k, averaged over pairs of images."""
        pairs = list(combinations(self.subspaces, 2))
        if not pairs:
            return 0.0
        rank = pairs[0][0].shape[1]
        return float(np.mean([1 - np.sum((a.T @ b) ** 2) / rank for a, b in pairs]))


def _shares(gram: NDArray[np.float64]) -> tuple[list[float], NDArray[np.float64]]:
    values, vectors = np.linalg.eigh(gram)
    values = np.maximum(values[::-1], 0)
    total = max(float(values.sum()), 1e-300)
    return [float(values[:k].sum()) / total for k in SHARES], vectors[:, ::-1][:, : min(2, len(values))]


def _measure(values: Tensor, spectrum: Spectrum) -> None:
    F = values[0].reshape(values.shape[1], -1).astype(np.float64)
    mean = F.mean(axis=1, keepdims=True)
    gram = F @ F.T / F.shape[1]
    centred = gram - mean @ mean.T
    spectrum.shape = values.shape
    spectrum.energies.append(float(np.trace(gram)) / len(gram))
    spectrum.variations.append(max(float(np.trace(centred)), 0.0) / len(gram))
    spectrum.shares.append(_shares(gram)[0])
    shares, subspace = _shares(centred)
    spectrum.centred_shares.append(shares)
    spectrum.subspaces.append(subspace)


def measure_spectra(
    model: onnx.ModelProto,
    card: ModelCard,
    layers: Sequence[str],
    tensors: Sequence[Tensor],
    on_image: Callable[[], None] = lambda: None,
) -> dict[str, Spectrum]:
    """Run the model once per image and sum up every layer.

    Args:
        tensors: model inputs, one image each.
    """
    session = RestorationSession(model, card, taps=layers)
    spectra = {name: Spectrum() for name in layers}
    for tensor in tensors:
        for name, values in zip(layers, session.run(tensor)[1:], strict=True):
            if np.isfinite(values).all():
                _measure(values, spectra[name])
        on_image()
    return spectra
