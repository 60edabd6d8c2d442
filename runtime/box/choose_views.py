"""Which flips of an image go into the self-ensemble behind a gate: those that the model tolerates, on real images."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import onnx

from kdguard.export.errors import UserError
from kdguard.export.image_pairs import ImagePair, load_pairs
from kdguard.export.image_tensor import image_to_tensor, model_size, pad_image, tensor_to_image
from kdguard.export.model_card import KEY_INPUT, ModelCard, read_card
from kdguard.export.tasks import get_task
from kdguard.graph_passes.insert_key_gate import gate_model
from kdguard.graph_passes.insert_view_ensemble import InsertViewEnsemble
from kdguard.graph_passes.key_gate import ENSEMBLE_OUTPUT, GateSecret, key_tensor, new_gate_secret
from kdguard.graph_passes.key_gate.views import MIRRORED_SIDES
from kdguard.runtime.analysis.crops import centre_crops
from kdguard.runtime.metrics import psnr
from kdguard.runtime.red_team.tile import WINDOW
from kdguard.runtime.red_team.views import HARMLESS_DB, harmless, turn, turn_back
from kdguard.runtime.session import RestorationSession

PAIRS = 8
ROUNDING = 1e-3
"""In units of the value range: answers of one batch and answers one by one differ by less."""


def choose_views(
    model: onnx.ModelProto, card: ModelCard, pairs: Sequence[ImagePair], hints: Mapping[str, int]
) -> tuple[int, ...]:
    """Those of the four views of equal size that cost the model at most 0.1 dB on image pairs.

    Args:
        model: hardened, without a gate.
        pairs: calibration images with their truth; up to eight are looked at.
        hints: what else the gate will open, as for `gate_model`.

    Returns:
        Views for `InsertViewEnsemble`, 0 first.

    Raises:
        UserError: no view but the image itself is tolerated, or the model cannot take views as one batch.
    """
    if card.fixed_size:
        raise UserError(
            "the model takes images of one size, and others tile by tile, which an ensemble in the graph cannot; leave "
            "--ensemble out"
        )
    secret = new_gate_secret()
    gated = gate_model(model, [secret], hints)
    InsertViewEnsemble(list(MIRRORED_SIDES), spatial_axes=_spatial_axes(card)).requires(gated)
    session, task = RestorationSession(model, card, provider="cpu"), get_task(card.task)
    crops = centre_crops(pairs, card, PAIRS, WINDOW)

    def score(view: int) -> float:
        answers = (turn_back(session.restore(turn(crop.degraded, view)), view) for crop in crops)
        return float(
            np.mean([psnr(answer, crop.clean, task, card.scale) for answer, crop in zip(answers, crops, strict=True)])
        )

    views = harmless(score, MIRRORED_SIDES)
    if len(views) == 1:
        raise UserError(
            f"every flip of the image costs the model more than {HARMLESS_DB} dB on these images, so an ensemble would "
            "be worse than the answer; leave --ensemble out"
        )
    session.release()
    _check_batch(gated, secret, card, views, crops[0])
    return views


def find_ensemble(model: onnx.ModelProto, path: Path, data: Path, hints: Mapping[str, int]) -> InsertViewEnsemble:
    """The ensemble that a hardened model tolerates on a data folder.

    Args:
        path: file of `model`, for messages.
        hints: as for `choose_views`.

    Raises:
        UserError: as `choose_views`; the folder cannot be read; the model has no card.
    """
    card = read_card(model)
    if card is None:
        raise UserError(
            f"{path} does not say what it restores, so its answers to flips cannot be judged; harden the teacher again "
            "with --task, and the file has a card"
        )
    pairs = load_pairs(data, get_task(card.task), card.channels, card.scale)
    return InsertViewEnsemble(choose_views(model, card, pairs, hints), spatial_axes=_spatial_axes(card))


def _spatial_axes(card: ModelCard) -> tuple[int, int]:
    """Where height and width are in the model's tensors."""
    return (1, 2) if card.layout == "NHWC" else (2, 3)


def _check_batch(
    gated: onnx.ModelProto, secret: GateSecret, card: ModelCard, views: Sequence[int], crop: ImagePair
) -> None:
    """Raise where the network treats images of a batch differently from single ones, or takes no batch at all."""
    key = {KEY_INPUT: key_tensor(secret)}
    ensemble = InsertViewEnsemble(views, spatial_axes=_spatial_axes(card))(gated).model
    # Padded before it is turned, so that no view is padded on another side.
    image = pad_image(crop.degraded, *model_size(card, *crop.degraded.shape[:2]))
    try:
        session = RestorationSession(ensemble, card, provider="cpu", taps=[ENSEMBLE_OUTPUT])
        found = tensor_to_image(session.run(image_to_tensor(image, card), key)[1], card, *image.shape[:2])
        session.release()
    except UserError as error:
        raise UserError(
            f"the model does not take the views of an image as one batch; leave --ensemble out: {error}"
        ) from None
    single = RestorationSession(gated, card, provider="cpu")
    answers = [turn_back(single.restore(turn(image, view), key), view) for view in views]
    apart = np.abs(np.mean(answers, 0) - found).max()
    if not apart <= ROUNDING:
        raise UserError(
            f"the model answers images of one batch otherwise than one by one (by {apart:.1g} of the value range), so "
            "that views in one batch would be no ensemble; leave --ensemble out"
        )
