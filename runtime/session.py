"""onnxruntime sessions fed with images, for models with a card and for foreign ones."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import onnx
from numpy.typing import NDArray

from kdguard.export.errors import MissingDependencyError, UserError, first_line
from kdguard.export.image_pairs import load_pairs
from kdguard.export.image_tensor import Tensor, image_to_tensor, tensor_to_image
from kdguard.export.large_models import is_large
from kdguard.export.model_card import CardOverrides, ModelCard, check_extra_inputs, infer_card, read_card
from kdguard.export.onnx_files import load_onnx
from kdguard.export.tasks import Image, get_task
from kdguard.runtime.extra_inputs import fill_input, known_sizes
from kdguard.runtime.float_edges import with_float_edges
from kdguard.runtime.inference import Provider, build_session, numpy_type
from kdguard.runtime.probe import PROBE_MULTIPLES, RANGE_PAIRS, best_value_range, find_geometry, score_value_ranges
from kdguard.runtime.terminal import say
from kdguard.runtime.tiling import default_overlap, restore_tiled

if TYPE_CHECKING:
    import onnxruntime


class _Input(NamedTuple):
    name: str
    shape: tuple[int | str | None, ...]
    type: str


class RestorationSession:
    """A restoration model ready to run.

    Attributes:
        card: how the model wants its images.
        taps: intermediate tensors that `run` returns beside the output.
        large: whether the weights stayed in data files. Such a session is built when it is first
            used, so that two of them can be declared without being held at once.
    """

    def __init__(
        self,
        model: onnx.ModelProto,
        card: ModelCard,
        *,
        provider: Provider = "auto",
        threads: int = 0,
        taps: Sequence[str] = (),
    ) -> None:
        """Build the session.

        Args:
            provider: `auto` takes CUDA where it works and the CPU elsewhere.
            threads: intra-op threads; 0 lets onnxruntime decide.

        Raises:
            UserError: onnxruntime refuses the model, or a tap is not in its graph.
            MissingDependencyError: CUDA was asked for by name and does not run here, or this machine
                has no kernel for the model's types.
        """
        self.card = card
        self.taps = tuple(taps)
        self.large = is_large(model)
        self._session: onnxruntime.InferenceSession | None = None
        self._provider = ""
        exposed = with_float_edges(expose_taps(model, taps) if taps else model)
        self._build = partial(build_session, exposed, provider, threads)
        if not self.large:
            self._ready()
            del self._build  # and with it the copy of the model

    def _ready(self) -> onnxruntime.InferenceSession:
        """The onnxruntime session, built where it is not there."""
        if self._session is not None:
            return self._session
        session = self._build()
        self._provider = session.get_providers()[0]
        # onnxruntime's own descriptions would keep the session alive.
        self._inputs = {i.name: _Input(i.name, tuple(i.shape), i.type) for i in session.get_inputs()}
        outputs = {node_output.name for node_output in session.get_outputs()}
        if self.card.input_name not in self._inputs or self.card.output_name not in outputs:
            raise UserError(
                f"the model has inputs {sorted(self._inputs)} and outputs {sorted(outputs)}, and the model card speaks "
                f"of {self.card.input_name!r} and {self.card.output_name!r}; do these two belong together?"
            )
        self._session = session
        return session

    @property
    def provider(self) -> str:
        """The execution provider that really runs, as onnxruntime names it."""
        if not self._provider:
            self._ready()
        return self._provider

    def release(self) -> None:
        """Give the memory of a large model back; the next run builds the session again."""
        if self.large:
            self._session = None

    @property
    def input_type(self) -> str:
        """Type of the image tensor as onnxruntime names it, e.g. `tensor(float16)`."""
        self._ready()
        return self._inputs[self.card.input_name].type

    def run(self, tensor: Tensor, further: Mapping[str, NDArray[Any]] | None = None) -> list[Tensor]:
        """The output and the taps, float32, for an input tensor in the model's own layout and range.

        A model that insists on a batch gets one image repeated, and answers for one.

        Args:
            further: values of inputs that the card does not know, by name.
        """
        if self.card.batch > 1 and len(tensor) == 1:
            outputs = self._run(np.repeat(tensor, self.card.batch, 0), further or {})
            return [_first_share(output, self.card.batch) for output in outputs]
        return self._run(tensor, further or {})

    def _run(self, tensor: Tensor, further: Mapping[str, NDArray[Any]]) -> list[Tensor]:
        session = self._ready()
        image = self._inputs[self.card.input_name]
        feed: dict[str, NDArray[Any]] = {image.name: tensor.astype(numpy_type(self.input_type)), **further}
        for name, values in self.card.extra_inputs.items():
            if name in self._inputs:
                wanted = self._inputs[name]
                symbols = known_sizes(image.shape, tensor.shape) if len(image.shape) == tensor.ndim else {}
                filled = fill_input(name, wanted.shape, values, tensor.shape, symbols)
                feed[name] = filled.astype(numpy_type(wanted.type))
        try:
            outputs = session.run([self.card.output_name, *self.taps], feed)
        except Exception as error:  # onnxruntime raises a dozen types without a common public base
            raise UserError(
                f"onnxruntime failed on an input of shape {list(tensor.shape)}: {first_line(error)}"
            ) from error
        return [np.asarray(output, dtype=np.float32) for output in outputs]

    def restore(self, degraded: Image, further: Mapping[str, NDArray[Any]] | None = None) -> Image:
        """Restore one image [H, W, C] in [0, 1]; the result is not clipped.

        Images whose size is no multiple of the card's are padded by reflection and cropped back; a
        model of one fixed size restores others tile by tile.

        Args:
            further: as for `run`.
        """
        size = self.card.fixed_size
        if size and degraded.shape[:2] != size:
            return restore_tiled(_Fed(self, further or {}), degraded, size, default_overlap(size))
        output = self.run(image_to_tensor(degraded, self.card), further)[0]
        return tensor_to_image(output, self.card, *degraded.shape[:2])


class _Fed:
    """A session with further inputs held fixed, for whoever asks image by image."""

    def __init__(self, session: RestorationSession, further: Mapping[str, NDArray[Any]]) -> None:
        self.card = session.card
        self._session, self._further = session, further

    def restore(self, degraded: Image) -> Image:
        return self._session.restore(degraded, self._further)


def _first_share(output: Tensor, batch: int) -> Tensor:
    """What a batch of equal images gave for the first one; tensors without a batch axis stay as they are."""
    whole = output.ndim and len(output) % batch == 0
    return output[: len(output) // batch] if whole else output


def open_session(
    path: Path | str,
    *,
    task: str | None = None,
    overrides: CardOverrides | None = None,
    provider: Provider = "auto",
    threads: int = 0,
    taps: Sequence[str] = (),
) -> RestorationSession:
    """Open a model file; a foreign one without a card is probed for scale and size multiple.

    Raises:
        UserError: unreadable model, no card and no task, task that contradicts the card.
    """
    model = load_onnx(path)
    card = resolve_card(model, task, str(path), overrides)
    return RestorationSession(model, card, provider=provider, threads=threads, taps=taps)


def resolve_card(
    model: onnx.ModelProto,
    task: str | None,
    where: str = "the model",
    overrides: CardOverrides | None = None,
    data: Path | None = None,
) -> ModelCard:
    """The model's own card, or one worked out from its inputs and probe runs; its task is always known.

    Args:
        overrides: what the user says; it wins.
        data: image pairs on which the value range is found where neither card nor user states it;
            without them it is [0, 1].

    Raises:
        UserError: neither card nor task, or they contradict each other; unreadable data.
    """
    overrides = overrides or CardOverrides()
    card = read_card(model)
    known = card.task if card else None
    if task is not None and known is not None and task != known:
        raise UserError(f"{where} is a {known} model by its card and --task says {task}; drop --task")
    if task is None and known is None:
        raise UserError(f"{where} does not say what it restores; say it with --task")
    if card is not None:
        check_extra_inputs(model, overrides, where)
        return overrides.apply(card.model_copy(update={"task": get_task(task or known).name}))
    card = guess_card(model, get_task(task).name, where, overrides)
    if data is None or overrides.value_range is not None:
        return card
    return _with_value_range(RestorationSession(model, card), data, where)


def guess_card(
    model: onnx.ModelProto, task: str | None, where: str = "the model", overrides: CardOverrides | None = None
) -> ModelCard:
    """A foreign model's card from its inputs, with scale and size multiple found by running it.

    Raises:
        UserError: it does not behave like an image-to-image model.
        MissingDependencyError: nothing on this machine runs it.
    """
    overrides = overrides or CardOverrides()
    card = infer_card(model, task, where, overrides)
    try:
        session = RestorationSession(model, card, provider="cpu")
    except MissingDependencyError:  # a GPU, where there is one, may have what the CPU lacks
        session = RestorationSession(model, card)
    multiples = (overrides.size_multiple,) if overrides.size_multiple else PROBE_MULTIPLES
    return find_geometry(session, multiples, where)


def _with_value_range(session: RestorationSession, data: Path, where: str) -> ModelCard:
    """The session's card in the value range that restores best, after saying so."""
    card = session.card
    pairs = load_pairs(data, get_task(card.task), card.channels, card.scale, limit=RANGE_PAIRS)
    scores = score_value_ranges(session, pairs)
    best = best_value_range(scores)
    listed = ", ".join(f"{low:g} to {high:g}: {score:.1f} dB" for (low, high), score in scores.items())
    say(f"{where}: value range {best[0]:g} to {best[1]:g} taken ({listed}); say --value-range if that is wrong")
    return card.model_copy(update={"value_range": best})


def resolve_common_card(
    teacher: onnx.ModelProto,
    hardened: onnx.ModelProto,
    task: str | None,
    where: str,
    overrides: CardOverrides | None = None,
    data: Path | None = None,
) -> ModelCard:
    """The card under which a teacher and its hardened model are compared.

    A foreign teacher borrows the card that `kdguard harden` wrote into the hardened model.

    Args:
        overrides: as for `resolve_card`.
        data: likewise.

    Raises:
        UserError: as `resolve_card`, or the two models' cards contradict each other.
    """
    first, second = read_card(teacher), read_card(hardened)
    tasks = {card.task for card in (first, second) if card and card.task}
    if first and second and (len(tasks) > 1 or first.model_copy(update={"task": second.task}) != second):
        raise UserError(
            f"{where} ({first.describe()}) and the hardened model ({second.describe()}) have different model cards; "
            "is this its teacher?"
        )
    known = task or (tasks.pop() if tasks else None)
    return resolve_card(teacher if first or not second else hardened, known, where, overrides, data)


def expose_taps(model: onnx.ModelProto, taps: Sequence[str]) -> onnx.ModelProto:
    """A copy of the model with intermediate tensors as further outputs: what any holder can do.

    Raises:
        UserError: a tap is not a tensor of the main graph.
    """
    known = {name for node in model.graph.node for name in node.output}
    for tap in taps:
        if tap not in known:
            raise UserError(f"tap {tap!r} is not a tensor of the model's graph; see `kdguard inspect MODEL`")
    tapped = onnx.ModelProto()
    tapped.CopyFrom(model)
    tapped.graph.output.extend(onnx.ValueInfoProto(name=tap) for tap in taps)
    return tapped
