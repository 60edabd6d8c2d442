"""Options that several commands share, declared once."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer


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
    typer.Option("--task", help="Restoration task; only needed where the model carries no card."),
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
