"""How much the output suffers per unit of gain, layer by layer, from one instrumented session."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import onnx

from kdguard.export.image_pairs import ImagePair
from kdguard.export.model_card import ModelCard
from kdguard.export.tasks import get_task
from kdguard.graph_passes.op import SvdPerturbAttributes
from kdguard.graph_passes.probe_layers import STRENGTHS, ProbeLayers
from kdguard.runtime.fidelity import refuse_non_finite
from kdguard.runtime.metrics import psnr
from kdguard.runtime.session import RestorationSession

PROBE_RANK, PROBE_GAIN = 4, 2.0
PROBE_STRENGTH = 0.1
"""Of the probe's gain: gain 1.1, small enough for a slope and large enough for fp32."""


@dataclass(frozen=True)
class Sensitivity:
    """Of one layer.

    Attributes:
        db_per_gain: PSNR against ground truth lost at gain 1.1, over 0.1.
        psnr_between_db: output at gain 1.1 against the clean output; 200 where it does not change.
    """

    db_per_gain: float
    psnr_between_db: float


def measure_sensitivity(
    model: onnx.ModelProto,
    card: ModelCard,
    channels: Mapping[str, int],
    pairs: Sequence[ImagePair],
    on_layer: Callable[[], None] = lambda: None,
) -> dict[str, Sensitivity]:
    """Perturb one layer after the other, in-path, in one session.

    Args:
        channels: of every layer to perturb.
        pairs: small crops; every layer costs a run over each.

    Raises:
        UserError: the clean model's output is not finite.
    """
    # Amplifying every component of a map is a change of scale, which a normalisation behind it takes back.
    ranks = {layer: min(PROBE_RANK, max(1, count // 2)) for layer, count in channels.items()}
    attributes = {layer: SvdPerturbAttributes(rank=rank, gain=PROBE_GAIN) for layer, rank in ranks.items()}
    probe = ProbeLayers(attributes)(model).model
    session = RestorationSession(probe, card)
    task = get_task(card.task)

    def restore(strengths: np.ndarray) -> list[np.ndarray]:
        return [session.restore(pair.degraded, {STRENGTHS: strengths}) for pair in pairs]

    nothing = np.zeros(len(channels), np.float32)
    clean = restore(nothing)
    for pair, image in zip(pairs, clean, strict=True):
        refuse_non_finite(pair, image)
    own = [psnr(image, pair.clean, task, card.scale) for image, pair in zip(clean, pairs, strict=True)]
    found = {}
    for index, layer in enumerate(channels):
        strengths = nothing.copy()
        strengths[index] = PROBE_STRENGTH
        moved = [np.nan_to_num(image) for image in restore(strengths)]
        after = [psnr(image, pair.clean, task, card.scale) for image, pair in zip(moved, pairs, strict=True)]
        between = [
            psnr(image, before, task, card.scale, clip=False) for image, before in zip(moved, clean, strict=True)
        ]
        gain = (PROBE_GAIN - 1) * PROBE_STRENGTH
        found[layer] = Sensitivity(float(np.mean(own) - np.mean(after)) / gain, float(np.mean(between)))
        on_layer()
    return found
