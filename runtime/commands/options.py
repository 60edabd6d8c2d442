"""Options that several commands share, declared once."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from kdguard.export.model_card import CardOverrides
    from kdguard.runtime.red_team.options import TrainingOptions

TASK_NAMES = "super-resolution, low-light, underwater, dehazing, deraining or denoising"


class PlacementOption(StrEnum):
    """`--placement`."""

    auto = "auto"
    in_path = "in-path"
    paired = "paired"
    compensated = "compensated"


class ModulationOption(StrEnum):
    """`--modulation`."""

    none = "none"
    pattern = "pattern"
    tail = "tail"


class ProviderOption(StrEnum):
    """`--provider`."""

    auto = "auto"
    cpu = "cpu"
    cuda = "cuda"


class LayoutOption(StrEnum):
    """`--layout`."""

    nchw = "NCHW"
    nhwc = "NHWC"


class FamilyOption(StrEnum):
    """`--student`."""

    residual_cnn = "residual-cnn"
    unet = "unet"


class SizeOption(StrEnum):
    """`--size`."""

    small = "small"
    medium = "medium"
    large = "large"


class BackendOption(StrEnum):
    """`--backend`."""

    joblib = "joblib"
    ray = "ray"


Json = Annotated[Path | None, typer.Option("--json", metavar="FILE", help="Also write the result as JSON.")]
Task = Annotated[
    str | None,
    typer.Option("--task", help=f"Restoration task, where the model carries no card: {TASK_NAMES}."),
]
_DATA_HELP = (
    "Folder with clean/ and degraded/, equal file names; or with clean/ alone, which the task then degrades itself."
)
Data = Annotated[Path, typer.Option("--data", metavar="DIR", help=_DATA_HELP)]
OptionalData = Annotated[Path | None, typer.Option("--data", metavar="DIR", help=_DATA_HELP)]
BudgetDb = Annotated[float, typer.Option("--budget-db", min=0, help="PSNR that the hardened model may lose, in dB.")]
Cache = Annotated[
    Path | None,
    typer.Option("--cache", metavar="DIR", help="Keep analyses here, by the hash of model and images."),
]
Provider = Annotated[ProviderOption, typer.Option("--provider", help="Where onnxruntime runs.")]
Seed = Annotated[int, typer.Option("--seed", min=0, help="Seed of everything random.")]

ValueRange = Annotated[
    tuple[float, float] | None,
    typer.Option(
        "--value-range",
        metavar="LOW HIGH",
        help="What black and white are to the model; found on --data where the model carries no card, else 0 1.",
    ),
]
Layout = Annotated[
    LayoutOption | None, typer.Option("--layout", help="Order of the image's axes, where the model does not show it.")
]
SizeMultiple = Annotated[
    int | None,
    typer.Option("--size-multiple", min=1, help="Height and width must be multiples of it; found where not said."),
]
ExtraInput = Annotated[
    list[str] | None,
    typer.Option(
        "--extra-input",
        metavar="NAME=VALUE",
        help="Constant for a further input, e.g. a noise level; several values by commas; repeat for more inputs.",
    ),
]


def training_options(
    steps: int, student: FamilyOption, size: SizeOption, learning_rates: str | None, early_stopping: bool
) -> TrainingOptions:
    """As the red team takes them.

    Raises:
        UserError: a learning rate that is no positive number, too large, or given twice.
    """
    from kdguard.export.errors import UserError
    from kdguard.runtime.red_team.options import MAX_LEARNING_RATE, TrainingOptions

    given = TrainingOptions(steps=steps, family=student.value, size=size.value, early_stopping=early_stopping)
    if learning_rates is None:
        return given
    try:
        rates = tuple(float(rate) for rate in learning_rates.split(","))
    except ValueError:
        rates = ()
    if not rates or len(set(rates)) < len(rates) or not all(0 < rate <= MAX_LEARNING_RATE for rate in rates):
        raise UserError(
            f"--learning-rates {learning_rates}: give numbers above 0 and up to {MAX_LEARNING_RATE:g}, each once, with "
            "commas between, as 2e-3,5e-3"
        )
    return given.model_copy(update={"learning_rates": rates})


def card_overrides(
    value_range: tuple[float, float] | None,
    layout: LayoutOption | None,
    size_multiple: int | None,
    extra_input: list[str] | None,
) -> CardOverrides:
    """What the user says about a model, from the four options above.

    Raises:
        UserError: an extra input that is no NAME=VALUE, or is given twice.
    """
    from kdguard.export.errors import UserError
    from kdguard.export.model_card import CardOverrides

    extra: dict[str, tuple[float, ...]] = {}
    for text in extra_input or ():
        name, separator, values = text.partition("=")
        try:
            numbers = tuple(float(value) for value in values.split(","))
        except ValueError:
            numbers = ()
        if not name or not separator or not numbers:
            raise UserError(f"--extra-input {text!r}: give NAME=VALUE, or NAME=VALUE,VALUE,... with numbers")
        if name in extra:
            raise UserError(f"--extra-input {text!r}: {name!r} is given twice")
        extra[name] = numbers
    return CardOverrides(value_range, layout.value if layout else None, size_multiple, extra)


def split_names(given: list[str] | None) -> tuple[str, ...]:
    """Names from a repeatable option whose values may hold several, separated by commas; each once.

    Raises:
        UserError: the option was given and holds no name.
    """
    from kdguard.export.errors import UserError

    names = (name.strip() for value in given or () for name in value.split(","))
    found = tuple(dict.fromkeys(name for name in names if name))
    if given and not found:
        raise UserError(f"no name in {', '.join(map(repr, given))}; give a name, or leave the option out")
    return found
