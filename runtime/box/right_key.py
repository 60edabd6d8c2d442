"""What a right key does to the output: for a holder, too, the model must restore."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import onnx

from kdguard.export.errors import GateFailedError
from kdguard.export.image_pairs import ImagePair
from kdguard.export.model_card import KEY_INPUT, ModelCard
from kdguard.export.parity import sample_images
from kdguard.export.tasks import Image, get_task
from kdguard.graph_passes.insert_key_gate import gate_model
from kdguard.graph_passes.key_gate import key_tensor, new_gate_secret
from kdguard.graph_passes.key_gate.inventory import drivable_layers
from kdguard.runtime.metrics import psnr
from kdguard.runtime.session import RestorationSession

LEAST_DB = 30.0
"""A key takes nodes out of the way that moved the output by less: hardening has two fidelity gates."""


def check_right_key(model: onnx.ModelProto, card: ModelCard) -> None:
    """Raise where a gate's key would change what a hardened model restores, on photographs.

    A node that a key switches off although the weights behind it were fitted to what it does spoils the output for key
    holders alone, whom no other check plays.

    Args:
        model: without a gate.

    Raises:
        GateFailedError: with a key the output is another one.
    """
    if not drivable_layers(model):
        return
    shut, opened = _both(model, card)
    for image in sample_images(card.task, card.channels):
        apart = opened(image) - shut(image)
        agreement = -10 * np.log10(max(float(np.mean(np.square(apart, dtype=np.float64))), 1e-20))
        if not agreement >= LEAST_DB:
            raise GateFailedError(
                f"a right key would change the output: with and without it agree to {agreement:.1f} dB on a "
                f"photograph, and {LEAST_DB:.0f} dB are the least; harden the teacher anew, without compensated layers"
            )


def keyed_loss(model: onnx.ModelProto, card: ModelCard, pairs: Sequence[ImagePair]) -> float:
    """What a right key costs against ground truth, in dB of PSNR, mean of the pairs; below 0 where it helps.

    Args:
        model: hardened, without a gate.
    """
    shut, opened = _both(model, card)
    task = get_task(card.task)

    def score(restore: Callable[[Image], Image], pair: ImagePair) -> float:
        return psnr(restore(pair.degraded), pair.clean, task, card.scale)

    return float(np.mean([score(shut, pair) - score(opened, pair) for pair in pairs]))


def _both(model: onnx.ModelProto, card: ModelCard) -> tuple[Callable[[Image], Image], Callable[[Image], Image]]:
    """The model without a key, and behind a gate of our own with the right one."""
    secret = new_gate_secret()
    key = {KEY_INPUT: key_tensor(secret)}
    plain = RestorationSession(model, card, provider="cpu")
    gated = RestorationSession(gate_model(model, [secret]), card, provider="cpu")
    return plain.restore, lambda image: gated.restore(image, key)
