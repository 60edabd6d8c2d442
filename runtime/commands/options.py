"""Options that several commands share, declared once."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

TASK_NAMES = "super-resolution, low-light, underwater, dehazing, deraining or denoising"


class PlacementOption(StrEnum):
    """`--placement`."""

    in_path = "in-path"
    paired = "paired"


class ProviderOption(StrEnum):
    """`--provider`."""

    auto = "auto"
    cpu = "cpu"
    cuda = "cuda"


Json = Annotated[Path | None, typer.Option("--json", metavar="FILE", help="Also write the result as JSON.")]
Task = Annotated[
    str | None,
    typer.Option("--task", help=f"Restoration task, where the model carries no card: {TASK_NAMES}."),
]
Data = Annotated[
    Path,
    typer.Option("--data", metavar="DIR", help="Folder with clean/ and degraded/, equal file names."),
]
OptionalData = Annotated[
    Path | None,
    typer.Option("--data", metavar="DIR", help="Folder with clean/ and degraded/, equal file names."),
]
BudgetDb = Annotated[float, typer.Option("--budget-db", min=0, help="PSNR that the hardened model may lose, in dB.")]
Provider = Annotated[ProviderOption, typer.Option("--provider", help="Where onnxruntime runs.")]
Seed = Annotated[int, typer.Option("--seed", min=0, help="Seed of everything random.")]


def split_names(given: list[str] | None) -> tuple[str, ...]:
    """Names from a repeatable option whose values may hold several, separated by commas; each once."""
    names = (name.strip() for value in given or () for name in value.split(","))
    return tuple(dict.fromkeys(name for name in names if name))
