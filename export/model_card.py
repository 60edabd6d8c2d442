"""The model card: what a caller must know to feed a model, stored in the ONNX file itself.

The card is JSON under the key `kdguard.card` of the model's `metadata_props`, so it survives
copying, renaming and hardening.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Literal

import onnx
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, FiniteFloat, ValidationError

from kdguard.export.errors import UserError, first_problem
from kdguard.export.tasks import get_task

CARD_KEY = "kdguard.card"
KEY_INPUT = "kdguard_key"
"""Input of a key gate (docs/key-gate.md). No card speaks of it: without a key it is left out, or filled with `NO_KEY`.
"""
NO_KEY = 0.5
"""Each entry where there is no key: keys are zeros and ones, so whatever digests a gate holds, this opens none."""
MAX_SCALE = 16
_FLOATS = (onnx.TensorProto.FLOAT, onnx.TensorProto.FLOAT16, onnx.TensorProto.BFLOAT16, onnx.TensorProto.DOUBLE)


def _white_above_black(value: tuple[float, float]) -> tuple[float, float]:
    if not value[0] < value[1]:
        raise ValueError(f"white must be above black, and {value[1]:g} is not above {value[0]:g}")
    return value


ValueRange = Annotated[tuple[FiniteFloat, FiniteFloat], AfterValidator(_white_above_black)]
SizeMultiple = Annotated[int, Field(ge=1, le=4096)]
Layout = Literal["NCHW", "NHWC"]
Side = Annotated[int, Field(ge=1)]


class ModelCard(BaseModel):
    """How to call a restoration model."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    task: str | None = Field(None, description="one of kdguard.export.tasks.TASKS; None where nobody said")
    input_name: str
    output_name: str
    layout: Layout = "NCHW"
    channels: Literal[1, 3] = 3
    value_range: ValueRange = Field((0.0, 1.0), description="black and white at input and output")
    scale: int = Field(1, ge=1, le=MAX_SCALE, description="output size over input size")
    size_multiple: SizeMultiple = Field(1, description="height and width must be multiples of it")
    fixed_size: tuple[Side, Side] | None = Field(
        None, description="height and width of the only input that the model takes; None where they are free"
    )
    batch: int = Field(1, ge=1, le=1024, description="images that the model insists on at once")
    extra_inputs: dict[str, list[FiniteFloat]] = Field(
        default_factory=dict, description="constant values of further inputs, flattened"
    )

    @property
    def spatial_axes(self) -> tuple[int, int]:
        """Height and width among the axes of the model's tensors."""
        return (1, 2) if self.layout == "NHWC" else (2, 3)

    def describe(self) -> str:
        """One line for people."""
        low, high = self.value_range
        size = f"size multiple {self.size_multiple}"
        if self.fixed_size:
            size = f"images of {self.fixed_size[1]}x{self.fixed_size[0]} only"
        extra = "".join(f", {name} = {', '.join(f'{v:g}' for v in v_)}" for name, v_ in self.extra_inputs.items())
        channels = "1 channel" if self.channels == 1 else f"{self.channels} channels"
        return (
            f"{self.task or 'task not stated'}, {self.layout}, {channels}, range {low:g} to {high:g}, "
            f"scale {self.scale}, {size}{f', batch {self.batch}' if self.batch > 1 else ''}{extra}"
        )


@dataclass(frozen=True)
class CardOverrides:
    """What the user says about a model, against its card or where it has none; None is not said.

    Attributes:
        extra_inputs: values of inputs beside the image: one for all, one per channel, or all of them flattened.
        in_pipeline: whether they come from a pipeline file; messages then name its fields.
    """

    value_range: tuple[float, float] | None = None
    layout: Layout | None = None
    size_multiple: int | None = None
    extra_inputs: Mapping[str, tuple[float, ...]] = field(default_factory=dict)
    in_pipeline: bool = field(default=False, compare=False)

    def __bool__(self) -> bool:
        return self != CardOverrides()

    def option(self, name: str) -> str:
        """Where the user says `value_range`, say: an option of the command line, or a field of the pipeline file."""
        return f"teacher.{name}" if self.in_pipeline else f"--{name.replace('_', '-')}"

    def range_option(self, value_range: tuple[float, float]) -> str:
        """What to write to state a value range."""
        low, high = value_range
        values = f": [{low:g}, {high:g}]" if self.in_pipeline else f" {low:g} {high:g}"
        return self.option("value_range") + values

    def extra_option(self, name: str) -> str:
        """What to write to give a further input a value."""
        return self.option("extra_input") + (f": {{{name}: VALUE}}" if self.in_pipeline else f" {name}=VALUE")

    def apply(self, card: ModelCard) -> ModelCard:
        """The card as the user wants it.

        Raises:
            UserError: a value that no card may hold.
        """
        said = {"value_range": self.value_range, "layout": self.layout, "size_multiple": self.size_multiple}
        changes: dict[str, object] = {name: value for name, value in said.items() if value is not None}
        changes["extra_inputs"] = card.extra_inputs | {name: list(v) for name, v in self.extra_inputs.items()}
        try:
            return ModelCard.model_validate(card.model_dump() | changes)
        except ValidationError as error:
            where, what = first_problem(error)
            name = where.split(".", maxsplit=1)[0]
            raise UserError(f"{self.option('extra_input' if name == 'extra_inputs' else name)}: {what}") from error

    def contradictions(self, card: ModelCard, wanted: ModelCard) -> list[str]:
        """What of a card is overruled, for people.

        Args:
            wanted: as `apply` gave it.
        """
        lines = []
        for name in ("value_range", "layout", "size_multiple"):
            old, new = (_in_words(getattr(each, name)) for each in (card, wanted))
            if old != new:
                what = name.replace("_", " ")
                lines.append(f"{what} {old} of the card is overruled: {self.option(name)} says {new}")
        for name, old_values in card.extra_inputs.items():
            if wanted.extra_inputs[name] != old_values:
                old, new = (", ".join(f"{v:g}" for v in values) for values in (old_values, wanted.extra_inputs[name]))
                lines.append(f"{name} = {old} of the card is overruled: {self.option('extra_input')} says {new}")
        return lines


def _in_words(value: object) -> str:
    return " to ".join(f"{side:g}" for side in value) if isinstance(value, tuple) else str(value)


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
                where, what = first_problem(error, ModelCard)
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


def describe_shape(shape: Sequence[int | str | None]) -> str:
    """`[n, 3, ?, ?]`: a free axis by its symbol, or `?` where it has none."""
    return f"[{', '.join(str(side or '?') for side in shape)}]"


def check_extra_inputs(model: onnx.ModelProto, overrides: CardOverrides, where: str = "the model") -> None:
    """Raise where the user gives a value to an input that is not there.

    Raises:
        UserError: names it, and those that are there.
    """
    names = {value.name for value in model.graph.input}
    if unknown := sorted(set(overrides.extra_inputs) - names):
        option, known = overrides.option("extra_input"), ", ".join(sorted(names))
        raise UserError(f"{option} {unknown[0]}: {where} has no such input; it has {known}")


def _restored_output(model: onnx.ModelProto, channels: int, axis: int) -> str:
    """The first output that may be an image: 4-D or of unknown rank, with the image's channels where they are known."""
    may_be = [v for v in model.graph.output if not v.type.tensor_type.HasField("shape") or len(_dimensions(v)) == 4]
    fitting = [v for v in may_be if not _dimensions(v) or _dimensions(v)[axis] in (0, channels)]
    return [*fitting, *may_be, model.graph.output[0]][0].name


def infer_card(
    model: onnx.ModelProto, task: str | None, where: str = "the model", overrides: CardOverrides | None = None
) -> ModelCard:
    """Guess the card of a foreign model from its inputs; scale and size multiple stay at 1.

    Args:
        overrides: what the user says; inputs that it gives values to are not looked for the image.

    Raises:
        UserError: there is no 4-D floating-point image input of 1 or 3 channels, more than one, or a
            further input that neither has a default value nor is given one.
    """
    if task is not None:
        get_task(task)
    overrides = CardOverrides() if overrides is None else overrides
    check_extra_inputs(model, overrides, where)
    known = {KEY_INPUT, *(tensor.name for tensor in model.graph.initializer), *overrides.extra_inputs}
    inputs = [value for value in model.graph.input if value.name not in known]
    images = [value for value in inputs if value.type.tensor_type.elem_type in _FLOATS and len(_dimensions(value)) == 4]
    if len(images) != 1:
        found = ", ".join(f"{v.name} {describe_shape(_dimensions(v))}" for v in inputs) or "none"
        constants = f"give the others constant values with {overrides.extra_option('NAME')}"
        hint = constants if images else "it restores no images"
        raise UserError(
            f"{where} needs exactly one 4-D floating-point image input and has {len(images)} (inputs: {found}); {hint}"
        )
    if extra := [value.name for value in inputs if value is not images[0]]:
        raise UserError(
            f"{where} has further inputs without default values ({', '.join(extra)}); give them constant values "
            f"with {overrides.extra_option(extra[0])}"
        )
    if not model.graph.output:
        raise UserError(f"{where} has no outputs; it is not a model that can be run")
    image = images[0]
    shape = _dimensions(image)
    layout: Layout = "NHWC" if shape[3] in (1, 3) and shape[1] not in (1, 3) else "NCHW"
    layout = overrides.layout or layout
    channels = shape[3] if layout == "NHWC" else shape[1]
    if channels not in (0, 1, 3):
        raise UserError(
            f"{where} takes images of {channels} channels ({image.name} {describe_shape(shape)}, read as {layout}); "
            "kdguard feeds grey and RGB images only "
            f"(if the layout is wrong, say {overrides.option('layout')})"
        )
    height, width = shape[1:3] if layout == "NHWC" else shape[2:]
    card = ModelCard(
        task=task,
        input_name=image.name,
        output_name=_restored_output(model, 1 if channels == 1 else 3, 3 if layout == "NHWC" else 1),
        layout=layout,
        channels=1 if channels == 1 else 3,
        # A side that is free where the other is fixed may as well be as long as that one.
        fixed_size=(height or width, width or height) if height or width else None,
        batch=max(1, shape[0]),
    )
    return overrides.apply(card)
