"""onnxruntime sessions that say which provider really runs, fed with images."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import onnx
from numpy.typing import NDArray

from kdguard.export.errors import MissingDependencyError, UserError, first_line
from kdguard.export.image_tensor import Tensor, image_to_tensor, tensor_to_image
from kdguard.export.model_card import ModelCard, infer_card, read_card
from kdguard.export.onnx_files import load_onnx
from kdguard.export.tasks import Image, get_task

if TYPE_CHECKING:
    import onnxruntime

Provider = Literal["auto", "cpu", "cuda"]
_PROVIDERS = {"cpu": "CPUExecutionProvider", "cuda": "CUDAExecutionProvider"}
_PROBE_MULTIPLES = (1, 2, 4, 8, 16, 32, 64)
_PROBE_SIZE = 65


class RestorationSession:
    """A restoration model ready to run.

    Attributes:
        card: how the model wants its images.
        provider: the execution provider that really runs, as onnxruntime names it.
        taps: intermediate tensors that `run` returns beside the output.
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
            MissingDependencyError: CUDA was asked for by name and does not run here.
        """
        self.card = card
        self.taps = tuple(taps)
        self._session = _build(expose_taps(model, taps) if taps else model, provider, threads)
        self.provider: str = self._session.get_providers()[0]
        if provider == "cuda" and self.provider != _PROVIDERS["cuda"]:
            raise MissingDependencyError(
                f"CUDA was asked for and onnxruntime fell back to {self.provider}; use --provider cpu, or a "
                "machine with a GPU and the CUDA libraries that onnxruntime-gpu needs"
            )
        types = {node_input.name: node_input.type for node_input in self._session.get_inputs()}
        outputs = {node_output.name for node_output in self._session.get_outputs()}
        if card.input_name not in types or card.output_name not in outputs:
            raise UserError(
                f"the model has inputs {sorted(types)} and outputs {sorted(outputs)}, and the model card speaks of "
                f"{card.input_name!r} and {card.output_name!r}; do these two belong together?"
            )
        self._input_type = _numpy_type(types[card.input_name])

    def run(self, tensor: Tensor, further: Mapping[str, NDArray[Any]] | None = None) -> list[Tensor]:
        """The output and the taps, float32, for an input tensor in the model's own layout and range.

        Args:
            further: values of inputs that the card does not know, by name.
        """
        feed: dict[str, NDArray[Any]] = {self.card.input_name: tensor.astype(self._input_type), **(further or {})}
        for node_input in self._session.get_inputs():
            if node_input.name in self.card.extra_inputs:
                shape = [side if isinstance(side, int) else 1 for side in node_input.shape]
                values = np.asarray(self.card.extra_inputs[node_input.name])
                feed[node_input.name] = values.reshape(shape).astype(_numpy_type(node_input.type))
        try:
            outputs = self._session.run([self.card.output_name, *self.taps], feed)
        except Exception as error:  # onnxruntime raises a dozen types without a common public base
            raise UserError(
                f"onnxruntime failed on an input of shape {list(tensor.shape)}: {first_line(error)}"
            ) from error
        return [np.asarray(output, dtype=np.float32) for output in outputs]

    def restore(self, degraded: Image) -> Image:
        """Restore one image [H, W, C] in [0, 1]; the result is not clipped.

        Images whose size is no multiple of the card's are padded by reflection and cropped back.
        """
        output = self.run(image_to_tensor(degraded, self.card))[0]
        return tensor_to_image(output, self.card, *degraded.shape[:2])


def open_session(
    path: Path | str,
    *,
    task: str | None = None,
    provider: Provider = "auto",
    threads: int = 0,
    taps: Sequence[str] = (),
) -> RestorationSession:
    """Open a model file; a foreign one without a card is probed for scale and size multiple.

    Raises:
        UserError: unreadable model, no card and no task, task that contradicts the card.
    """
    model = load_onnx(path)
    return RestorationSession(
        model, resolve_card(model, task, str(path)), provider=provider, threads=threads, taps=taps
    )


def resolve_card(model: onnx.ModelProto, task: str | None, where: str = "the model") -> ModelCard:
    """The model's own card, or one worked out from its inputs and a probe run; its task is always known.

    Raises:
        UserError: neither card nor task, or they contradict each other.
    """
    card = read_card(model)
    known = card.task if card else None
    if task is not None and known is not None and task != known:
        raise UserError(f"{where} is a {known} model by its card and --task says {task}; drop --task")
    if task is None and known is None:
        raise UserError(f"{where} does not say what it restores; say it with --task")
    if card is not None:
        return card.model_copy(update={"task": get_task(task or known).name})
    return _probe(model, infer_card(model, get_task(task).name, where), where)


def resolve_common_card(teacher: onnx.ModelProto, hardened: onnx.ModelProto, task: str | None, where: str) -> ModelCard:
    """The card under which a teacher and its hardened model are compared.

    A foreign teacher borrows the card that `kdguard harden` wrote into the hardened model.

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
    return resolve_card(teacher if first or not second else hardened, known, where)


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


def _probe(model: onnx.ModelProto, card: ModelCard, where: str) -> ModelCard:
    """Find the smallest size multiple that the model accepts, and its scale, by running it once or more.

    The probe is a smooth ramp: uniform noise makes some published networks explode.
    """
    session = RestorationSession(model, card, provider="cpu")
    ramp = np.linspace(0, 1, _PROBE_SIZE, dtype=np.float32)
    image = np.repeat(np.add.outer(ramp, ramp)[..., None] / 2, card.channels, axis=-1).astype(np.float32)
    problem = ""
    for multiple in _PROBE_MULTIPLES:
        attempt = card.model_copy(update={"size_multiple": multiple})
        tensor = image_to_tensor(image, attempt)
        try:
            output = session.run(tensor)[0]
        except UserError as error:
            problem = str(error)
            continue
        scales = {output.shape[a] / tensor.shape[a] for a in card.spatial_axes} if output.ndim == 4 else set()
        if len(scales) == 1 and (scale := scales.pop()) >= 1 and scale == int(scale):
            return attempt.model_copy(update={"scale": int(scale)})
        problem = f"input {list(tensor.shape)} gives output {list(output.shape)}"
    raise UserError(
        f"{where} does not behave like an image-to-image model for any size multiple up to "
        f"{_PROBE_MULTIPLES[-1]}: {problem}"
    )


def _build(model: onnx.ModelProto, provider: Provider, threads: int) -> onnxruntime.InferenceSession:
    import onnxruntime

    # Failures reach the user as one line of ours, not as three of the log's.
    onnxruntime.set_default_logger_severity(4)
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.intra_op_num_threads = threads
    wanted = [_PROVIDERS["cuda"], _PROVIDERS["cpu"]] if provider != "cpu" else [_PROVIDERS["cpu"]]
    # The GPU wheel lists CUDA on machines without a GPU and then falls back without a word, so
    # availability says nothing; only the built session does (`get_providers`).
    if provider == "auto" and not _has_gpu():
        wanted = [_PROVIDERS["cpu"]]
    try:
        return onnxruntime.InferenceSession(model.SerializeToString(), options, providers=wanted)
    except Exception as error:  # as above: no common public base
        raise UserError(f"onnxruntime refuses the model: {first_line(error)}") from error


def _has_gpu() -> bool:
    return any(Path("/dev").glob("nvidia[0-9]*")) or Path("/dev/dxg").exists()


def _numpy_type(onnx_type: str) -> type:
    return {"tensor(float16)": np.float16, "tensor(double)": np.float64, "tensor(int64)": np.int64}.get(
        onnx_type, np.float32
    )
