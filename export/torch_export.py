"""A torch module to ONNX with dynamic batch, height and width, checked against torch on real images."""

from __future__ import annotations

import logging
import re
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import onnx

from kdguard.export.checkpoint import load_state_dict
from kdguard.export.errors import GateFailedError, UserError, first_line, root_cause
from kdguard.export.files import check_outputs
from kdguard.export.image_tensor import image_to_tensor
from kdguard.export.model_card import MAX_SCALE, ModelCard, write_card
from kdguard.export.onnx_files import default_opset, save_onnx
from kdguard.export.parity import measure_parity, run_torch, sample_images
from kdguard.export.tasks import Image, get_task
from kdguard.export.user_code import build_module

if TYPE_CHECKING:
    from torch import nn

MIN_OPSET = 18
DATA_PARALLEL_PREFIX = "module."
"""torch.nn.DataParallel keeps the model one level down."""
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


def _load_weights(model: nn.Module, weights: Path) -> None:
    state = load_state_dict(weights)
    expected = set(model.state_dict())
    unwrapped = {name.removeprefix(DATA_PARALLEL_PREFIX): tensor for name, tensor in state.items()}
    if set(state) != expected and set(unwrapped) == expected:
        state = unwrapped
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


def _trace(model: nn.Module, card: ModelCard, example: np.ndarray, opset: int) -> onnx.ModelProto:
    """Run torch's exporter with every axis but the channels dynamic."""
    import torch

    dynamic = torch.export.Dim.DYNAMIC
    axes = (0, *card.spatial_axes)
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
    answers = [run_torch(model, image_to_tensor(image, card), card) for image in images]
    try:
        exported = _trace(model, card, image_to_tensor(images[0], card), opset)
    except Exception as error:  # torch.onnx raises a family of its own, none of them public
        raise UserError(f"torch cannot export {source}: {first_line(root_cause(error))}") from error
    if default_opset(exported) != opset:
        raise UserError(f"torch wrote opset {default_opset(exported)} instead of {opset}; ask for that one")
    scale, worst = measure_parity(exported, card, images, answers)
    if not worst <= PARITY_TOLERANCE:
        raise GateFailedError(
            f"parity failed: onnxruntime differs from torch by {worst:.2e} of the value range on real images "
            f"(limit {PARITY_TOLERANCE:.0e}; infinite where one of them gives NaN); nothing was written"
        )
    if scale > MAX_SCALE:
        raise UserError(f"the model enlarges {scale} times; kdguard handles factors up to {MAX_SCALE}")
    card = card.model_copy(update={"scale": scale})
    write_card(exported, card)
    save_onnx(exported, output)
    return ExportReport(card, opset, len(images), worst)
