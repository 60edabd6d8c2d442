"""A torch module to ONNX with dynamic batch, height and width, checked against torch on real images."""

from __future__ import annotations

import importlib
import logging
import re
import sys
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from importlib.machinery import PathFinder
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx

from kdguard.export.checkpoint import load_state_dict
from kdguard.export.errors import GateFailedError, UserError, first_line, root_cause
from kdguard.export.files import check_outputs
from kdguard.export.image_tensor import image_to_tensor
from kdguard.export.model_card import ModelCard, write_card
from kdguard.export.onnx_files import default_opset, save_onnx
from kdguard.export.tasks import Image, get_task
from kdguard.export.tasks.base import PairsOnlyTask

if TYPE_CHECKING:
    from torch import nn

MIN_OPSET = 18
AXIS_NAMES = ("batch", "height", "width")
PARITY_TOLERANCE = 1e-3
"""Largest difference between torch and onnxruntime that passes, as a share of the value range."""


@dataclass(frozen=True)
class ExportReport:
    """What came of an export: the card and the worst difference to torch on real images."""

    card: ModelCard
    opset: int
    images: int
    max_abs_error: float


def import_callable(source: str, search_path: Path | None = None) -> Callable[..., Any]:
    """Import `package.module:name`.

    Args:
        search_path: folder put first on the module search path while importing.

    Raises:
        UserError: malformed, cannot be imported, or no callable of that name.
    """
    if not re.fullmatch(r"[A-Za-z_][\w.]*:[A-Za-z_]\w*", source):
        raise UserError(f"{source!r} is not of the form package.module:name (an ONNX file needs no export)")
    module_name, name = source.split(":")
    folder = str((search_path or Path.cwd()).resolve())
    _forget_namesake(module_name.split(".")[0], folder)
    sys.path.insert(0, folder)
    try:
        module = importlib.import_module(module_name)
    except Exception as error:  # whatever the user's module raises is his to read, in one line
        raise UserError(
            f"cannot import {module_name!r} from {folder} or the environment: "
            f"{type(error).__name__}: {first_line(error)}"
        ) from error
    finally:
        sys.path.remove(folder)
    found = getattr(module, name, None)
    if not callable(found):
        raise UserError(f"{module_name!r} has no callable {name!r}")
    return found


def _forget_namesake(top_level: str, folder: str) -> None:
    """Drop a cached module of the same name that came from another folder than the one asked for."""
    spec = PathFinder.find_spec(top_level, [folder])
    cached = sys.modules.get(top_level)
    if spec and spec.origin and cached and getattr(cached, "__file__", None) != spec.origin:
        for name in [n for n in sys.modules if n.split(".")[0] == top_level]:
            del sys.modules[name]


def build_module(source: str, search_path: Path | None = None) -> nn.Module:
    """Call the factory that `source` names, ready for inference.

    Raises:
        UserError: as `import_callable`, or it raises, or its result is no torch module.
    """
    from torch import nn

    try:
        model = import_callable(source, search_path)()
    except UserError:
        raise
    except Exception as error:
        raise UserError(f"{source} raised {type(error).__name__}: {first_line(error)}") from error
    if not isinstance(model, nn.Module):
        raise UserError(f"{source} returned {type(model).__name__}, not a torch.nn.Module")
    return model.eval()


def _load_weights(model: nn.Module, weights: Path) -> None:
    state = load_state_dict(weights)
    expected = set(model.state_dict())
    if set(state) != expected:
        missing, surplus = sorted(expected - set(state)), sorted(set(state) - expected)
        raise UserError(
            f"{weights}: does not fit the model: {len(missing)} names missing (first {missing[:1]}), {len(surplus)} "
            f"the model does not know (first {surplus[:1]}); are these the weights of this architecture?"
        )
    try:
        model.load_state_dict(state)
    except RuntimeError as error:
        reason = " ".join(str(error).split())
        raise UserError(f"{weights}: does not fit the model: {reason[:300]}") from error


def sample_images(task: str | None, channels: int) -> list[Image]:
    """Photographs from scikit-image, degraded as the task says, for parity without user data.

    Uniform noise is no substitute: some published networks explode on it in every runtime. One has
    odd sides, so that a network which needs a size multiple shows it.
    """
    from skimage import data

    images = []
    for index, (name, size) in enumerate((("astronaut", (96, 128)), ("coffee", (83, 71)))):
        clean = getattr(data, name)()[100 : 100 + size[0], 100 : 100 + size[1]].astype(np.float32) / 255
        if channels == 1:
            clean = clean.mean(axis=-1, keepdims=True)
        degraded = clean
        if task is not None and not isinstance(get_task(task), PairsOnlyTask):
            degraded = get_task(task).degrade(clean, np.random.default_rng(index))
        images.append(degraded)
    return images


def _run_torch(model: nn.Module, tensor: np.ndarray, card: ModelCard) -> np.ndarray:
    """The module's own answer.

    Raises:
        UserError: it raises, or returns something other than one 4-D tensor.
    """
    import torch

    shape = list(tensor.shape)
    try:
        with torch.no_grad():
            output = model(torch.from_numpy(tensor))
    except Exception as error:
        raise UserError(
            f"the torch model fails on an input of shape {shape}: {first_line(error)}; do --channels "
            f"({card.channels}), --layout ({card.layout}) and --size-multiple ({card.size_multiple}) fit it?"
        ) from error
    if not isinstance(output, torch.Tensor) or output.ndim != 4:
        raise UserError(
            f"the torch model answers an input of shape {shape} with {type(output).__name__}, not with one 4-D "
            "tensor; wrap it so that it returns the restored image only"
        )
    return output.numpy()


def _trace(model: nn.Module, card: ModelCard, example: np.ndarray, opset: int) -> onnx.ModelProto:
    """Run torch's exporter with every axis but the channels dynamic."""
    import torch

    dynamic = torch.export.Dim.DYNAMIC
    axes = (0, 1, 2) if card.layout == "NHWC" else (0, 2, 3)
    # The exporter warns about every torchvision op it cannot register when torchvision is absent.
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    # A batch of one would be specialised into the graph.
    batch = torch.from_numpy(np.concatenate([example, example]))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # torch's own, about its own internals
        program = torch.onnx.export(
            model,
            (batch,),
            dynamo=True,
            opset_version=opset,
            input_names=[card.input_name],
            output_names=[card.output_name],
            dynamic_shapes=(dict.fromkeys(axes, dynamic),),
            verbose=False,
        )
    assert program is not None
    exported = program.model_proto
    _name_dimensions(exported, axes)
    _drop_stack_traces(exported)
    return exported


def _name_dimensions(model: onnx.ModelProto, axes: tuple[int, ...]) -> None:
    """Give the exporter's symbols (s77, 2*s53) names that a person reads."""
    dimensions = model.graph.input[0].type.tensor_type.shape.dim
    names = {dimensions[axis].dim_param: name for axis, name in zip(axes, AXIS_NAMES, strict=True)}
    for value in (*model.graph.input, *model.graph.output, *model.graph.value_info):
        for dimension in value.type.tensor_type.shape.dim:
            if dimension.HasField("dim_param"):
                dimension.dim_param = re.sub(r"\b[a-z]\d+\b", lambda m: names.get(m[0], m[0]), dimension.dim_param)


def _drop_stack_traces(model: onnx.ModelProto) -> None:
    """The exporter records source paths and lines of the vendor's machine; those do not ship."""
    for node in model.graph.node:
        kept = [entry for entry in node.metadata_props if "stack_trace" not in entry.key]
        del node.metadata_props[:]
        node.metadata_props.extend(kept)


def _measure_parity(
    model: nn.Module, exported: onnx.ModelProto, card: ModelCard, images: list[Image]
) -> tuple[int, float]:
    """Scale found, and the worst difference to torch as a share of the value range; NaN is infinite."""
    import onnxruntime

    session = onnxruntime.InferenceSession(exported.SerializeToString(), providers=["CPUExecutionProvider"])
    worst, scales = 0.0, set()
    sides = (1, 2) if card.layout == "NHWC" else (2, 3)
    for image in images:
        tensor = image_to_tensor(image, card)
        expected = _run_torch(model, tensor, card)
        try:
            (actual,) = session.run([card.output_name], {card.input_name: tensor})
        except Exception as error:
            raise GateFailedError(
                f"parity failed: onnxruntime cannot run the export on an input of shape {list(tensor.shape)}: "
                f"{first_line(error)}"
            ) from error
        if actual.shape != expected.shape:
            raise GateFailedError(
                f"parity failed on an input of shape {list(tensor.shape)}: torch gives {list(expected.shape)}, "
                f"onnxruntime {list(actual.shape)}; the output size depends on the input in a way the export froze"
            )
        scales |= {actual.shape[axis] / tensor.shape[axis] for axis in sides}
        difference = float(np.abs(actual - expected).max())
        worst = max(worst, difference if np.isfinite(difference) else np.inf)
    (scale, *others) = sorted(scales)
    if others or scale < 1 or scale != int(scale):
        raise UserError(
            f"the model's output is {sorted(scales)} times its input; kdguard needs one whole factor, 1 or more"
        )
    low, high = card.value_range
    return int(scale), worst / (high - low)


def export_teacher(
    source: str | nn.Module,
    weights: Path | None,
    output: Path,
    *,
    task: str | None = None,
    images: list[Image] | None = None,
    card: ModelCard | None = None,
    opset: int = MIN_OPSET,
    search_path: Path | None = None,
) -> ExportReport:
    """Export a teacher and write it only if it agrees with torch on real images.

    Args:
        source: `package.module:factory`, or a module that is ready to run.
        weights: safetensors or torch file; None keeps the factory's own weights.
        output: the .onnx file to write.
        images: real ones for the parity check; photographs from scikit-image by default.
        task: for the card; commands that need it ask for it where the card has none.
        card: layout, range, channels and size multiple; the scale is measured.
        opset: 18 or newer.

    Raises:
        UserError: bad source, weights, task or output.
        GateFailedError: torch and onnxruntime disagree by more than `PARITY_TOLERANCE`.
    """
    if task is not None:
        get_task(task)
    check_outputs([output], [weights])
    if not MIN_OPSET <= opset <= onnx.defs.onnx_opset_version():
        raise UserError(
            f"opset {opset} cannot be written: torch's exporter starts at {MIN_OPSET}, the installed onnx ends at "
            f"{onnx.defs.onnx_opset_version()}"
        )
    model = build_module(source, search_path) if isinstance(source, str) else source.eval()
    if weights is not None:
        _load_weights(model, weights)
    card = card or ModelCard(task=task, input_name="image", output_name="restored")
    images = images or sample_images(task, card.channels)
    for image in images:
        _run_torch(model, image_to_tensor(image, card), card)
    try:
        exported = _trace(model, card, image_to_tensor(images[0], card), opset)
    except Exception as error:  # torch.onnx raises a family of its own, none of them public
        raise UserError(f"torch cannot export {source}: {first_line(root_cause(error))}") from error
    if default_opset(exported) != opset:
        raise UserError(f"torch wrote opset {default_opset(exported)} instead of {opset}; ask for that one")
    scale, worst = _measure_parity(model, exported, card, images)
    if not worst <= PARITY_TOLERANCE:
        raise GateFailedError(
            f"parity failed: onnxruntime differs from torch by {worst:.2e} of the value range on real images "
            f"(limit {PARITY_TOLERANCE:.0e}; infinite where one of them gives NaN); nothing was written"
        )
    card = ModelCard.model_validate(card.model_dump() | {"scale": scale})
    write_card(exported, card)
    save_onnx(exported, output)
    return ExportReport(card, opset, len(images), worst)
