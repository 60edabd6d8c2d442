"""One call that opens a shipped model, for everybody: with a key its holder gets hints, without one all else.

>>> from kdguard.runtime import open_model, read_gate_secret
>>> model = open_model("gated.onnx")
>>> restored = model.restore(image)
>>> open_model("gated.onnx", read_gate_secret("alice.gate")).hints(image)
{'relu_13': array([[[...]]], dtype=float32)}
"""

from __future__ import annotations

import copy
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from kdguard.export.errors import UserError
from kdguard.export.image_tensor import image_to_tensor, tensor_to_image
from kdguard.export.model_card import KEY_INPUT, NO_KEY, CardOverrides, ModelCard
from kdguard.export.tasks import Image
from kdguard.graph_passes.insert_view_ensemble import without_ensemble
from kdguard.graph_passes.key_gate import ENSEMBLE_OUTPUT, HINT_PREFIX, KEY_BITS, SPREAD_OUTPUT, GateSecret, key_tensor
from kdguard.runtime.engines.session import Engine
from kdguard.runtime.image_session import ImageSession
from kdguard.runtime.inference import Provider
from kdguard.runtime.resolve_card import resolve_card
from kdguard.runtime.shipped import Shipped, load_shipped, start

NO_HINTS = "there are no hints for this key"
NO_ENSEMBLE = "there is no ensemble for this key"


class Ensemble(NamedTuple):
    """What a key holder's student may learn from instead of the answer.

    Attributes:
        mean: image [H, W, C] like a restored one.
        spread: [H, W], standard deviation of the answers, mean over the channels, in the image's units. Where it is
            large the teacher is unsure.
    """

    mean: Image
    spread: NDArray[np.float32]


class OpenedModel:
    """A model, and the key that its holder gave.

    Attributes:
        card: how the model wants its images.
        session: what runs it.
    """

    def __init__(
        self,
        shipped: Shipped,
        card: ModelCard,
        key: GateSecret | bytes | None = None,
        *,
        provider: Provider = "auto",
        threads: int = 0,
    ) -> None:
        """Open it; see `open_model`."""
        self.card = card
        self._shipped, self._provider, self._threads = shipped, provider, threads
        self._single = shipped if isinstance(shipped, Engine) else without_ensemble(shipped)
        self.session = start(self._single, card, provider=provider, threads=threads)
        self.gated = KEY_INPUT in _inputs(shipped)
        self._further = self._inputs_for(key)

    def with_key(self, key: GateSecret | bytes | None) -> OpenedModel:
        """The same model for another caller, whose key this one does not see; sessions are shared.

        The first call starts the sessions for hints and ensemble, where the model has them; the others cost nothing.
        All may be asked at the same time, from several threads.

        Raises:
            UserError: the key has not the form of one, see `open_model`.
        """
        further = self._inputs_for(key)
        if self._hint_outputs:
            _ = self._hinting  # a copy would start its own
        if self._has_ensemble:
            _ = self._ensembling
        other = copy.copy(self)
        other._further = further
        return other

    def restore(self, degraded: Image) -> Image:
        """Restore one image [H, W, C], floating point, 0 black and 1 white; over- and undershoot are not clipped.

        Raises:
            UserError: not such an image, or the model fails on it.
        """
        return self.session.restore(degraded, self._further)

    def hints(self, degraded: Image) -> dict[str, NDArray[np.float32]]:
        """Per hint layer the strongest components of its clean map, [k, h, w], for whom the key opens the gate.

        The answer is the same for no key, for a wrong one and for a model without hints; where the key is an input that
        must be fed, as in an engine, also for an image whose hints are zero everywhere.

        Raises:
            UserError: the key opens nothing; or not such an image.
        """
        if not self._hint_outputs:
            raise UserError(NO_HINTS)
        found = self._hinting.run(image_to_tensor(degraded, self.card), self._further)[1:]
        # A shut gate hands out no images, or nothing but zeros where the key is an input that must be fed.
        if not all(values.size for values in found) or (self._key_must_be_fed and not any(map(np.any, found))):
            raise UserError(NO_HINTS)
        names = [name.removeprefix(HINT_PREFIX) for name in self._hint_outputs]
        return {name: values[0] for name, values in zip(names, found, strict=True)}

    def ensemble(self, degraded: Image) -> Ensemble:
        """The mean of the teacher's answers over flips of the image, and how far they lie apart, for a right key.

        Images are padded as for `restore`, and never cut into tiles.

        Raises:
            UserError: the key opens nothing, which is said in the same words for no key, a wrong one and a model
                without an ensemble; or not such an image.
        """
        if not self._has_ensemble:
            raise UserError(NO_ENSEMBLE)
        if self.card.fixed_size not in (None, degraded.shape[:2]):
            raise UserError("an ensemble is of whole images, and the model takes those of one other size only")
        _, mean, spread = self._ensembling.run(image_to_tensor(degraded, self.card), self._further)
        if not mean.size:
            raise UserError(NO_ENSEMBLE)
        height, width = degraded.shape[:2]
        one = self.card.model_copy(update={"value_range": (0.0, 1.0)})
        low, high = self.card.value_range
        return Ensemble(
            tensor_to_image(mean, self.card, height, width),
            tensor_to_image(spread, one, height, width)[:, :, 0] / (high - low),
        )

    def _inputs_for(self, key: GateSecret | bytes | None) -> dict[str, NDArray[np.float32]]:
        secret = _as_secret(key)
        if not self.gated:
            return {}
        return {KEY_INPUT: np.full(KEY_BITS, NO_KEY, np.float32) if secret is None else key_tensor(secret)}

    @cached_property
    def _hint_outputs(self) -> list[str]:
        return [name for name in _outputs(self._shipped) if name.startswith(HINT_PREFIX)]

    @cached_property
    def _has_ensemble(self) -> bool:
        return ENSEMBLE_OUTPUT in _outputs(self._shipped)

    @cached_property
    def _ensembling(self) -> ImageSession:
        taps = (ENSEMBLE_OUTPUT, SPREAD_OUTPUT)
        return start(self._shipped, self.card, provider=self._provider, threads=self._threads, taps=taps)

    @cached_property
    def _key_must_be_fed(self) -> bool:
        shipped = self._shipped
        return isinstance(shipped, Engine) or KEY_INPUT not in {tensor.name for tensor in shipped.graph.initializer}

    @cached_property
    def _hinting(self) -> ImageSession:
        """A session of its own, so that restoring does not wait for hints that nobody asked for."""
        return start(self._single, self.card, provider=self._provider, threads=self._threads, taps=self._hint_outputs)


def open_model(
    path: Path | str,
    key: GateSecret | bytes | None = None,
    *,
    task: str | None = None,
    overrides: CardOverrides | None = None,
    provider: Provider = "auto",
    threads: int = 0,
) -> OpenedModel:
    """Open a hardened model, an engine, or any restoration model: the same call for everybody.

    Args:
        path: an ONNX file, or an engine with its manifest.
        key: a holder's gate secret, as `kdguard.runtime.read_gate_secret` reads it from his file, or its 32 bytes. A
            wrong one gives what none gives; so does any key to a model without a gate.
        task: of a model without a card; such a one is probed for scale and size multiple.
        overrides: what the caller knows better than the card.

    Raises:
        UserError: unreadable model, no card and no task, or a task that contradicts the card; a key of another type or
            length, whatever the model: that says nothing about which keys exist.
        MissingDependencyError: this machine cannot run it.
    """
    key = _as_secret(key)
    shipped = load_shipped(Path(path))
    card = shipped.manifest.card if isinstance(shipped, Engine) else resolve_card(shipped, task, str(path), overrides)
    return OpenedModel(shipped, card, key, provider=provider, threads=threads)


def _as_secret(key: GateSecret | bytes | None) -> GateSecret | None:
    """What was given for a key, by its form alone: neither a model nor its holders are asked.

    Raises:
        UserError: no secret and not 32 bytes, as a key file's text or its path are.
    """
    if key is None or isinstance(key, GateSecret):
        return key
    try:
        return GateSecret(key)
    except UserError as error:
        raise UserError(f"key: {error}; read a holder's file with kdguard.runtime.read_gate_secret(path)") from None


def _inputs(shipped: Shipped) -> set[str]:
    values: Any = shipped.manifest.inputs if isinstance(shipped, Engine) else shipped.graph.input
    return {value.name for value in values}


def _outputs(shipped: Shipped) -> list[str]:
    values: Any = shipped.manifest.outputs if isinstance(shipped, Engine) else shipped.graph.output
    return [value.name for value in values]
