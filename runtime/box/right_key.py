"""What a gate does to the output: nothing without a key, and for a holder, too, the model must restore."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx
from numpy.typing import NDArray

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
from kdguard.runtime.side_by_side import side_by_side

LEAST_DB = 30.0
"""A key takes nodes out of the way that moved the output by less: hardening has two fidelity gates."""


def check_gate(model: onnx.ModelProto, gated: onnx.ModelProto, card: ModelCard) -> None:
    """Raise where a gate changes what a model restores, on photographs: any bit without a key, much with a right one.

    A node that a key switches off although the weights behind it were fitted to what it does spoils the output for key
    holders alone, whom no other check plays. And a hint that reads what onnxruntime would have made one node with the
    next keeps it from doing so, which rounds otherwise.

    Args:
        model: without a gate.
        gated: with one, of whatever holders.

    Raises:
        GateFailedError: it does.
    """
    images = sample_images(card.task, card.channels)
    sessions = [_asked(model, card), _asked(gated, card)]
    if drivable_layers(model):
        sessions.append(_opened(model, card))
    for before, without_key, *with_key in side_by_side(sessions, images, _Asked.restore):
        if not np.array_equal(before, without_key):
            raise GateFailedError(
                "with this gate the model does not answer bit for bit as before where no key is given: a hint hinders "
                "onnxruntime's optimiser; name the map behind the activation in its place, or leave that hint out"
            )
        for opened in with_key:
            _refuse_another_output(opened, before)


def _refuse_another_output(opened: Image, before: Image) -> None:
    agreement = -10 * np.log10(max(float(np.mean(np.square(opened - before, dtype=np.float64))), 1e-20))
    if not agreement >= LEAST_DB:
        raise GateFailedError(
            f"a right key would change the output: with and without it agree to {agreement:.1f} dB on a photograph, "
            f"and {LEAST_DB:.0f} dB are the least; harden the teacher anew, without compensated layers"
        )


def keyed_loss(model: onnx.ModelProto, card: ModelCard, pairs: Sequence[ImagePair]) -> float:
    """What a right key costs against ground truth, in dB of PSNR, mean of the pairs; below 0 where it helps.

    Args:
        model: hardened, without a gate.
    """
    if not drivable_layers(model):
        return 0.0
    task = get_task(card.task)

    def score(asked: _Asked, pair: ImagePair) -> float:
        return psnr(asked.restore(pair.degraded), pair.clean, task, card.scale)

    scores = side_by_side([_asked(model, card), _opened(model, card)], pairs, score)
    return float(np.mean([shut - opened for shut, opened in scores]))


class _Asked:
    """A session, and what else is fed to it."""

    def __init__(self, session: RestorationSession, key: dict[str, NDArray[np.float32]]) -> None:
        self.session, self.key, self.large = session, key, session.large

    def release(self) -> None:
        self.session.release()

    def restore(self, image: Image) -> Image:
        return self.session.restore(image, self.key)


def _asked(model: onnx.ModelProto, card: ModelCard) -> _Asked:
    return _Asked(RestorationSession(model, card, provider="cpu"), {})


def _opened(model: onnx.ModelProto, card: ModelCard) -> _Asked:
    """Behind a gate of our own, for its holder."""
    secret = new_gate_secret()
    return _Asked(
        RestorationSession(gate_model(model, [secret]), card, provider="cpu"), {KEY_INPUT: key_tensor(secret)}
    )
