"""onnxruntime sessions fed with images, for models with a card and for foreign ones."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import onnx
from numpy.typing import NDArray

from kdguard.export.errors import UserError, first_line
from kdguard.export.image_tensor import Tensor, image_to_tensor, tensor_to_image
from kdguard.export.large_models import is_large
from kdguard.export.lookup import did_you_mean
from kdguard.export.model_card import ModelCard, describe_shape
from kdguard.export.tasks import Image
from kdguard.runtime.extra_inputs import fill_inputs
from kdguard.runtime.float_edges import with_float_edges
from kdguard.runtime.inference import Provider, build_session, numpy_type
from kdguard.runtime.native import Kernels
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
        kernels: Kernels = "auto",
    ) -> None:
        """Build the session.

        Args:
            provider: `auto` takes CUDA where it works and the CPU elsewhere.
            threads: intra-op threads; 0 lets onnxruntime decide.
            kernels: what runs kdguard's op: `auto` takes the native library where it is built and covers
                the model, `native` insists on it, `function` leaves it alone.

        Raises:
            UserError: onnxruntime refuses the model, or a tap is not in its graph.
            MissingDependencyError: CUDA or the native kernels were asked for by name and do not run
                here, or this machine has no kernel for the model's types.
        """
        self.card = card
        self.taps = tuple(taps)
        self.large = is_large(model)
        self._session: onnxruntime.InferenceSession | None = None
        self._provider = self._kernels = ""
        exposed = with_float_edges(expose_taps(model, taps) if taps else model)
        self._build = partial(build_session, exposed, provider, threads, kernels)
        if not self.large:
            self._ready()
            del self._build  # and with it the copy of the model

    def _ready(self) -> onnxruntime.InferenceSession:
        """The onnxruntime session, built where it is not there."""
        if self._session is not None:
            return self._session
        session, self._kernels = self._build()
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

    @property
    def kernels(self) -> str:
        """What runs kdguard's op: `native`, `function`, or `none` where the model does not hold it."""
        if not self._kernels:
            self._ready()
        return self._kernels

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
            further: values of inputs that the card does not know, by name; of those it knows, in place of its own.
        """
        if self.card.batch > 1 and len(tensor) == 1:
            outputs = self._run(np.repeat(tensor, self.card.batch, 0), further or {})
            return [_first_share(output, self.card.batch) for output in outputs]
        return self._run(tensor, further or {})

    def _run(self, tensor: Tensor, further: Mapping[str, NDArray[Any]]) -> list[Tensor]:
        session = self._ready()
        image = self._inputs[self.card.input_name]
        feed: dict[str, NDArray[Any]] = {image.name: tensor.astype(numpy_type(self.input_type)), **further}
        declared = {name: given.shape for name, given in self._inputs.items()}
        for name, filled in fill_inputs(self.card, declared, tensor.shape).items():
            feed.setdefault(name, filled.astype(numpy_type(self._inputs[name].type)))
        try:
            outputs = session.run([self.card.output_name, *self.taps], feed)
        except Exception as error:  # onnxruntime raises a dozen types without a common public base
            raise UserError(
                f"onnxruntime failed on an input of shape {list(tensor.shape)}: {first_line(error)}"
            ) from error
        return [np.asarray(output, dtype=np.float32) for output in outputs]

    def restore(self, degraded: Image, further: Mapping[str, NDArray[Any]] | None = None) -> Image:
        """Restore one image [H, W, C], floating point, 0 black and 1 white; over- and undershoot are not clipped.

        Images whose size is no multiple of the card's are padded by reflection and cropped back; a
        model of one fixed size restores others tile by tile.

        Args:
            further: as for `run`.

        Raises:
            UserError: not such an image, other channels than the card's, or the model fails on it.
        """
        _refuse_other_arrays(degraded, self.card.channels)
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


def _refuse_other_arrays(image: NDArray[Any], channels: int) -> None:
    """Raise where an array is no image for the model: 8-bit values would be taken for a hundred times white."""
    if image.ndim == 3 and image.shape[2] == channels and np.issubdtype(image.dtype, np.floating):
        return
    advice = "" if np.issubdtype(image.dtype, np.floating) else "; divide 8-bit values by 255"
    raise UserError(
        f"restore takes a floating-point image [H, W, {channels}] with 0 for black and 1 for white, and this is "
        f"{image.dtype} {describe_shape(image.shape)}{advice}"
    )


def _first_share(output: Tensor, batch: int) -> Tensor:
    """What a batch of equal images gave for the first one; tensors without a batch axis stay as they are."""
    whole = output.ndim and len(output) % batch == 0
    return output[: len(output) // batch] if whole else output


def check_taps(taps: Sequence[str], model: onnx.ModelProto, name: str = "model") -> None:
    """Raise where a model's main graph does not make one of the tensors.

    Args:
        name: what to call the model.

    Raises:
        UserError: names the first that is not there, and the one nearest to it.
    """
    known = {tensor for node in model.graph.node for tensor in node.output}
    for tap in taps:
        if tap not in known:
            hint = did_you_mean(sorted(known), tap) or "see `kdguard inspect MODEL`"
            raise UserError(f"tap {tap!r} is not a tensor of the {name}'s graph; {hint}")


def expose_taps(model: onnx.ModelProto, taps: Sequence[str]) -> onnx.ModelProto:
    """A copy of the model with intermediate tensors as further outputs, where they are none: what any holder can do.

    Raises:
        UserError: a tap is not a tensor of the main graph.
    """
    check_taps(taps, model)
    tapped = onnx.ModelProto()
    tapped.CopyFrom(model)
    present = {value.name for value in model.graph.output}
    tapped.graph.output.extend(onnx.ValueInfoProto(name=tap) for tap in taps if tap not in present)
    return tapped
