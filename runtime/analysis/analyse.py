"""The whole analysis: which feature maps there are, and what each is like on real images."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from pathlib import Path

import onnx

from kdguard.export.errors import UserError
from kdguard.export.image_pairs import ImagePair
from kdguard.export.image_tensor import image_to_tensor
from kdguard.export.model_card import ModelCard
from kdguard.graph_passes.costs import GraphCosts, count_costs
from kdguard.graph_passes.layers import Layer, find_layers
from kdguard.graph_passes.strip_nodes import StripNodes
from kdguard.runtime.analysis.cache import AnalysisCache
from kdguard.runtime.analysis.crops import centre_crops
from kdguard.runtime.analysis.layer_analysis import SHARES, Analysis, LayerAnalysis
from kdguard.runtime.analysis.sensitivity import Sensitivity, measure_sensitivity
from kdguard.runtime.analysis.spectra import Spectrum, measure_spectra
from kdguard.runtime.terminal import progress_bar
from kdguard.runtime.wording import counted

SPECTRUM_IMAGES, SPECTRUM_SIDE = 6, 96
SENSITIVITY_IMAGES, SENSITIVITY_SIDE = 2, 64
MAX_CHANNELS = 512
MIN_POSITIONS = 16
NO_INFLUENCE_DB = 140.0
"""Output against output above this differs by rounding only."""


def analyse(
    model: onnx.ModelProto,
    card: ModelCard,
    pairs: Sequence[ImagePair],
    *,
    cache: Path | None = None,
    sensitivity: bool = True,
) -> Analysis:
    """Measure every 4-D feature map on centre crops of calibration images.

    Args:
        cache: folder for results, named by the hash of model, card and images.
        sensitivity: also measure what perturbing each layer costs; the slow part.

    Raises:
        UserError: the model cannot run on the images, none of its tensors is a feature map, or
            the cache cannot be used.
    """
    stored = AnalysisCache(cache, model, card, pairs) if cache else None
    if stored and (found := stored.read(sensitivity)):
        return found
    result = _measure(model, card, pairs, sensitivity)
    if stored:
        stored.write(result, sensitivity)
    return result


def _measure(model: onnx.ModelProto, card: ModelCard, pairs: Sequence[ImagePair], sensitivity: bool) -> Analysis:
    candidates, skipped = _candidates(model)
    if not candidates:
        raise UserError("the model has no 4-D floating-point feature map; there is nothing to harden")
    names = [layer.name for layer in candidates]
    crops = centre_crops(pairs, card, SPECTRUM_IMAGES, SPECTRUM_SIDE)
    tensors = [image_to_tensor(pair.degraded, card) for pair in crops]
    with progress_bar("spectra of feature maps", len(tensors)) as advance:
        spectra = measure_spectra(model, card, names, tensors, advance)
    unfit = {name: why for name, spectrum in spectra.items() if (why := _unfit(spectrum))}
    skipped |= unfit
    spectra = {name: spectrum for name, spectrum in spectra.items() if name not in unfit}
    alive = [name for name, spectrum in spectra.items() if not spectrum.dead]
    measured: dict[str, Sensitivity] = {}
    if sensitivity and alive:
        small = centre_crops(pairs, card, SENSITIVITY_IMAGES, SENSITIVITY_SIDE)
        with progress_bar("sensitivity of the output", len(alive)) as advance:
            channels = {name: spectra[name].shape[1] for name in alive}
            measured = measure_sensitivity(model, card, channels, small, advance)
    whole = image_to_tensor(pairs[0].degraded, card).shape
    # Without our nodes, through which shape inference does not see.
    costs = count_costs(StripNodes()(model).model, {card.input_name: whole})
    layers = [
        _describe(layer, spectra[layer.name], measured.get(layer.name), costs)
        for layer in candidates
        if layer.name in spectra
    ]
    return Analysis(
        input_shape=list(tensors[0].shape),
        images=len(tensors),
        whole_shape=list(whole),
        cost=costs.total,
        layers=layers,
        skipped=skipped,
    )


def without_influence(
    model: onnx.ModelProto, card: ModelCard, pairs: Sequence[ImagePair], layers: Sequence[LayerAnalysis]
) -> list[str]:
    """Which of some layers do not reach the output: perturbing them changes nothing on small crops."""
    small = centre_crops(pairs, card, SENSITIVITY_IMAGES, SENSITIVITY_SIDE)
    measured = measure_sensitivity(model, card, {layer.name: layer.shape[1] for layer in layers}, small)
    return [name for name, found in measured.items() if found.psnr_between_db >= NO_INFLUENCE_DB]


def _candidates(model: onnx.ModelProto) -> tuple[list[Layer], dict[str, str]]:
    """Clean 4-D maps, and the rest with the reason."""
    fit, skipped = [], {}
    for layer in find_layers(model):
        channels = layer.shape[1] if len(layer.shape) > 1 else None
        if layer.hardened:
            skipped[layer.name] = "already hardened"
        elif len(layer.shape) != 4:
            skipped[layer.name] = f"{len(layer.shape)}-D; only [N, C, H, W] maps are chosen"
        elif isinstance(channels, int) and channels > MAX_CHANNELS:
            skipped[layer.name] = f"{channels} channels; the singular vectors would cost more than the layer"
        else:
            fit.append(layer)
    return fit, skipped


def _unfit(spectrum: Spectrum) -> str | None:
    if not spectrum.energies:
        return "not finite on the calibration images"
    if spectrum.shape[1] == 1 or spectrum.shape[1] > MAX_CHANNELS:
        return counted(spectrum.shape[1], "channel")
    if (positions := spectrum.shape[2] * spectrum.shape[3]) < MIN_POSITIONS:
        return f"only {counted(positions, 'position')}: no map"
    return None


def _describe(layer: Layer, spectrum: Spectrum, measured: Sensitivity | None, costs: GraphCosts) -> LayerAnalysis:
    return LayerAnalysis(
        name=layer.name,
        op_type=layer.op_type,
        readers=list(layer.readers),
        shape=list(spectrum.shape),
        depth=costs.depth.get(layer.name, 0.0),
        dtype=layer.dtype,
        values=prod(costs.shapes.get(layer.name, spectrum.shape)),
        energy=spectrum.energy,
        variation=spectrum.variation,
        energy_share=dict(zip(SHARES, _mean(spectrum.shares), strict=True)),
        centred_share=dict(zip(SHARES, _mean(spectrum.centred_shares), strict=True)),
        subspace_variation=spectrum.subspace_variation(),
        sensitivity_db=measured.db_per_gain if measured else None,
        psnr_between_db=measured.psnr_between_db if measured else None,
        influences=measured is None or measured.psnr_between_db < NO_INFLUENCE_DB,
        dead=spectrum.dead,
    )


def _mean(rows: Sequence[Sequence[float]]) -> list[float]:
    return [sum(column) / len(rows) for column in zip(*rows, strict=True)]
