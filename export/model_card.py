"""The model card: what a caller must know to feed a model, stored in the ONNX file itself.

The card is JSON under the key `kdguard.card` of the model's `metadata_props`, so it survives
copying, renaming and hardening.
"""

from __future__ import annotations

from typing import Annotated, Literal

import onnx
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, FiniteFloat, ValidationError

from kdguard.export.errors import UserError, first_problem
from kdguard.export.tasks import get_task

CARD_KEY = "kdguard.card"
MAX_SCALE = 16
_FLOATS = (onnx.TensorProto.FLOAT, onnx.TensorProto.FLOAT16, onnx.TensorProto.BFLOAT16, onnx.TensorProto.DOUBLE)


def _white_above_black(value: tuple[float, float]) -> tuple[float, float]:
    if not value[0] < value[1]:
        raise ValueError("white must be above black")
    return value


ValueRange = Annotated[tuple[FiniteFloat, FiniteFloat], AfterValidator(_white_above_black)]
SizeMultiple = Annotated[int, Field(ge=1, le=4096)]


class ModelCard(BaseModel):
    """How to call a restoration model."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    task: str | None = Field(None, description="one of kdguard.export.tasks.TASKS; None where nobody said")
    input_name: str
    output_name: str
    layout: Literal["NCHW", "NHWC"] = "NCHW"
    channels: Literal[1, 3] = 3
    value_range: ValueRange = Field((0.0, 1.0), description="black and white at input and output")
    scale: int = Field(1, ge=1, le=MAX_SCALE, description="output size over input size")
    size_multiple: SizeMultiple = Field(1, description="height and width must be multiples of it")
    extra_inputs: dict[str, list[float]] = Field(
        default_factory=dict, description="constant values of further inputs, flattened"
    )

    @property
    def spatial_axes(self) -> tuple[int, int]:
        """Height and width among the axes of the model's tensors."""
        return (1, 2) if self.layout == "NHWC" else (2, 3)

    def describe(self) -> str:
        """One line for people."""
        low, high = self.value_range
        return (
            f"{self.task or 'task not stated'}, {self.layout}, {self.channels} channel(s), range {low:g} to {high:g}, "
            f"scale {self.scale}, size multiple {self.size_multiple}"
        )


def read_card(model: onnx.ModelProto) -> ModelCard | None:
    """The card stored in a model, or None where it has none.

    Raises:
        UserError: there is one and it is malformed.
    """
    for entry in model.metadata_props:
        if entry.key == CARD_KEY:
            try:
                card = ModelCard.model_validate_json(entry.value)
            except ValidationError as error:
                where, what = first_problem(error)
                raise UserError(
                    f"the model card inside the model is malformed: {where}: {what}; export the model again"
                ) from error
            if card.task is not None:
                get_task(card.task)
            return card
    return None


def write_card(model: onnx.ModelProto, card: ModelCard) -> None:
    """Store a card in a model, in place, replacing an earlier one."""
    entries = [entry for entry in model.metadata_props if entry.key != CARD_KEY]
    del model.metadata_props[:]
    model.metadata_props.extend(entries)
    model.metadata_props.add(key=CARD_KEY, value=card.model_dump_json())


def _dimensions(value: onnx.ValueInfoProto) -> list[int]:
    """Dimensions of a tensor input or output; 0 where dynamic."""
    return [dim.dim_value for dim in value.type.tensor_type.shape.dim]


def infer_card(model: onnx.ModelProto, task: str, where: str = "the model") -> ModelCard:
    """Guess the card of a foreign model from its inputs; scale and size multiple stay at 1.

    Raises:
        UserError: there is no 4-D floating-point image input, more than one, or a further input
            without a default value.
    """
    get_task(task)
    defaults = {tensor.name for tensor in model.graph.initializer}
    inputs = [value for value in model.graph.input if value.name not in defaults]
    images = [value for value in inputs if value.type.tensor_type.elem_type in _FLOATS and len(_dimensions(value)) == 4]
    if len(images) != 1:
        found = ", ".join(f"{v.name} {_dimensions(v)}" for v in inputs) or "none"
        raise UserError(
            f"{where} needs exactly one 4-D floating-point image input and has {len(images)} (inputs: {found}); "
            "kdguard hardens image-to-image models"
        )
    if extra := [value.name for value in inputs if value is not images[0]]:
        raise UserError(
            f"{where} has further inputs without default values ({', '.join(extra)}); give them default "
            "values or a model card with extra_inputs"
        )
    if not model.graph.output:
        raise UserError(f"{where} has no outputs; it is not a model that can be run")
    image = images[0]
    shape = _dimensions(image)
    layout: Literal["NCHW", "NHWC"] = "NHWC" if shape[3] in (1, 3) and shape[1] not in (1, 3) else "NCHW"
    channels = shape[3] if layout == "NHWC" else shape[1]
    sides = shape[1:3] if layout == "NHWC" else shape[2:]
    if any(sides) or shape[0] > 1:
        raise UserError(
            f"{where} takes inputs of the fixed shape {shape} only (0: free); this version needs free height and "
            "width and a batch of one: export the model with dynamic axes"
        )
    return ModelCard(
        task=task,
        input_name=image.name,
        output_name=model.graph.output[0].name,
        layout=layout,
        channels=1 if channels == 1 else 3,
    )
