"""onnxruntime sessions fed with images, for models with a card and for foreign ones."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import onnx
from numpy.typing import NDArray

from kdguard.export.errors import UserError, first_line
from kdguard.export.image_tensor import Tensor
from kdguard.export.large_models import is_large
from kdguard.export.lookup import did_you_mean
from kdguard.export.model_card import ModelCard
from kdguard.runtime.extra_inputs import fill_inputs
from kdguard.runtime.float_edges import with_float_edges
from kdguard.runtime.image_session import ImageSession
from kdguard.runtime.inference import Provider, build_session, numpy_type
from kdguard.runtime.native import Kernels

if TYPE_CHECKING:
    import onnxruntime


class _Input(NamedTuple):
    name: str
    shape: tuple[int | str | None, ...]
    type: str


class RestorationSession(ImageSession):
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
        profile: Path | None = None,
    ) -> None:
        """Build the session.

        Args:
            provider: `auto` takes CUDA where it works and the CPU elsewhere.
            threads: intra-op threads; 0 lets onnxruntime decide.
            kernels: what runs kdguard's op: `auto` takes the native library where it is built and covers
                the model, `native` insists on it, `function` leaves it alone.
            profile: see `end_profiling`; start of the name of the file.

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
        self._build = partial(build_session, exposed, provider, threads, kernels, profile)
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

    def end_profiling(self) -> Path:
        """Where onnxruntime has written what every node of every run took; for sessions with a `profile`."""
        return Path(self._ready().end_profiling())

    def release(self) -> None:
        """Give the memory of a large model back; the next run builds the session again."""
        if self.large:
            self._session = None

    @property
    def input_type(self) -> str:
        """Type of the image tensor as onnxruntime names it, e.g. `tensor(float16)`."""
        self._ready()
        return self._inputs[self.card.input_name].type

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
