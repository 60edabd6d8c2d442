"""`kdguard bench`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from kdguard.runtime.commands import options


def bench(
    hardened: Annotated[Path, typer.Argument(help="The hardened model, or an engine built from it.")],
    teacher: Annotated[Path, typer.Option(help="The clean teacher, or an engine built from it.")],
    providers: Annotated[
        list[str] | None,
        typer.Option(metavar="NAMES", help="cpu, cuda; by default the CPU, and CUDA where there is a GPU."),
    ] = None,
    size: Annotated[
        str | None,
        typer.Option(metavar="HEIGHTxWIDTH", help="Of the image; 256x256, rounded to what the model takes."),
    ] = None,
    rounds: Annotated[int, typer.Option(min=1, max=10_000, help="Runs of each model that are timed.")] = 21,
    threads: Annotated[
        int | None, typer.Option(min=1, max=1024, help="Of onnxruntime and torch; one per physical core by default.")
    ] = None,
    task: options.Task = None,
    layout: options.Layout = None,
    size_multiple: options.SizeMultiple = None,
    extra_input: options.ExtraInput = None,
    json: options.Json = None,
    plot: Annotated[Path | None, typer.Option(metavar="FILE", help="Also draw it, as .svg or .png.")] = None,
) -> None:
    """Time the hardened model against the clean one, in turns, and the op against a copy and an SVD."""
    from kdguard.export.files import check_outputs, write_json
    from kdguard.runtime.bench.engines import bench_engines, both_engines
    from kdguard.runtime.bench.measure import bench as run_bench
    from kdguard.runtime.bench.options import bench_options
    from kdguard.runtime.bench.subject import Subject, choose_size
    from kdguard.runtime.bench.tables import bench_tables
    from kdguard.runtime.engines.session import Engine
    from kdguard.runtime.manifest import other_teacher
    from kdguard.runtime.resolve_card import resolve_common_card
    from kdguard.runtime.shipped import layers_of, load_shipped, shipped_files
    from kdguard.runtime.terminal import say, show

    check_outputs([json, plot], [*shipped_files(teacher), *shipped_files(hardened)])
    if plot:
        from kdguard.runtime.bench.plot import check_plot_name

        check_plot_name(plot)
    chosen = bench_options(options.split_names(providers), size, rounds, threads)
    clean, hard = load_shipped(teacher), load_shipped(hardened)
    if not layers_of(hard):  # allowed: prior defences are timed in the same way
        say(f"{hardened} holds no kdguard nodes: nothing is hardened in it", "yellow")
    if warning := other_teacher(hardened, teacher):
        say(warning, "yellow")
    if isinstance(clean, Engine) or isinstance(hard, Engine):
        found = bench_engines(*both_engines(clean, hard), chosen)
    else:
        overrides = options.card_overrides(None, layout, size_multiple, extra_input)
        card = resolve_common_card(clean, hard, task, str(teacher), overrides)
        found = run_bench(Subject(teacher, hardened, (clean, hard), card, choose_size(size, card, "--size")), chosen)
    for table in bench_tables(found):
        show(table)
    if json:
        write_json(json, found.model_dump())
    if plot:
        from kdguard.runtime.bench.plot import write_plot

        write_plot(plot, found)
