"""How far hardened feature maps lie from the clean ones, and whether a gain fits the layer's type."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import onnx

from kdguard.export.errors import UserError
from kdguard.export.image_pairs import ImagePair
from kdguard.export.image_tensor import Tensor, image_to_tensor
from kdguard.export.model_card import ModelCard
from kdguard.graph_passes.insert_svd_perturb import Site
from kdguard.graph_passes.layers import find_layers
from kdguard.graph_passes.op import reference
from kdguard.runtime.analysis.crops import centre_crops
from kdguard.runtime.fidelity import refuse_non_finite
from kdguard.runtime.session import RestorationSession
from kdguard.runtime.side_by_side import side_by_side
from kdguard.runtime.terminal import progress_bar

IMAGES, SIDE = 4, 256
"""Distortion varies little between images and not with their size."""
OVERFLOW_SIDE = 96


def feature_distortion(
    teacher: onnx.ModelProto,
    hardened: onnx.ModelProto,
    card: ModelCard,
    layers: Sequence[str],
    pairs: Sequence[ImagePair],
) -> dict[str, float]:
    """Mean over images of |hardened - clean| / |clean| per layer, Frobenius norms."""
    if not layers:
        return {}
    sessions = [RestorationSession(model, card, taps=layers) for model in (teacher, hardened)]
    ratios = []
    chosen = centre_crops(pairs, card, IMAGES, SIDE)
    with progress_bar("distortion of feature maps", len(chosen)) as advance:
        tensors = [image_to_tensor(pair.degraded, card) for pair in chosen]
        for clean, perturbed in side_by_side(sessions, tensors, lambda session, tensor: session.run(tensor)[1:]):
            ratios.append([_relative_change(c, p) for c, p in zip(clean, perturbed, strict=True)])
            advance()
    return dict(zip(layers, np.mean(ratios, axis=0).tolist(), strict=True))


def _relative_change(clean: Tensor, perturbed: Tensor) -> float:
    return float(np.linalg.norm(perturbed - clean)) / max(float(np.linalg.norm(clean)), 1e-12)


def refuse_overflow(
    teacher: onnx.ModelProto, card: ModelCard, sites: Sequence[Site], pairs: Sequence[ImagePair]
) -> None:
    """Raise where a float16 layer's perturbed values would not fit its type.

    The op leaves such values as they are, so that nothing breaks, and protects less than it says.

    Raises:
        UserError: names the layer, its gain and the value.
    """
    half: Mapping[str, str] = {layer.name: layer.dtype for layer in find_layers(teacher) if layer.dtype == "float16"}
    risky = [site for site in sites if site.layer in half]
    if not risky:
        return
    session = RestorationSession(teacher, card, taps=[site.layer for site in risky])
    limit = float(np.finfo(np.float16).max)
    for pair in centre_crops(pairs, card, IMAGES, OVERFLOW_SIDE):
        for site, values in zip(risky, session.run(image_to_tensor(pair.degraded, card))[1:], strict=True):
            refuse_non_finite(pair, values)
            peak = float(np.abs(reference.svd_perturb(values.astype(np.float64), site.attributes).Y).max())
            if peak > limit:
                raise UserError(
                    f"layer {site.layer!r}: gain {site.attributes.gain:g} overflows float16 on {pair.name!r} "
                    f"({peak:.3g}, the type ends at {limit:g}); lower --gain or leave the layer out"
                )
