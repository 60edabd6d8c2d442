"""`kdguard run`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def run(
    pipeline: Annotated[Path, typer.Argument(help="A pipeline.yaml.")],
    out: Annotated[Path | None, typer.Option("-o", "--out", help="Run folder; overrides the file's.")] = None,
    steps: Annotated[
        int | None, typer.Option(min=1, max=10_000_000, help="Training steps per student; overrides the file's.")
    ] = None,
    seeds: Annotated[
        int | None, typer.Option(min=1, max=1000, help="Students per recipe; overrides the file's.")
    ] = None,
    json: Annotated[Path | None, typer.Option("--json", metavar="FILE", help="Also write the summary as JSON.")] = None,
) -> None:
    """Export, harden, verify, attack and report into one run folder. Exits with 1 where a gate fails."""
    from kdguard.runtime.pipeline import load_pipeline
    from kdguard.runtime.run import Overrides, run_pipeline

    run_pipeline(pipeline, load_pipeline(pipeline), Overrides(out=out, steps=steps, seeds=seeds), json=json)
