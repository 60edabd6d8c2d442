"""`kdguard attack`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from kdguard.runtime.commands import options
from kdguard.runtime.commands.options import split_names


def _list_recipes(asked: bool) -> None:
    if not asked:
        return
    from rich.table import Table

    from kdguard.runtime.recipes import RECIPES
    from kdguard.runtime.terminal import show

    table = Table("recipe", "tier", "ground truth", "source")
    for recipe in RECIPES.values():
        table.add_row(recipe.name, recipe.tier, "needed" if recipe.ground_truth else "", recipe.source)
    show(table)
    raise typer.Exit


def attack(
    hardened: Annotated[Path, typer.Argument(help="The hardened model, or an engine built from it.")],
    teacher: Annotated[Path, typer.Option("--teacher", help="The clean teacher.")],
    data: options.Data,
    test_data: Annotated[
        Path | None,
        typer.Option(
            "--test-data",
            metavar="DIR",
            help="Such a folder to score on; without it every fourth image of --data is kept from training.",
        ),
    ] = None,
    task: options.Task = None,
    recipes: Annotated[
        list[str] | None,
        typer.Option(
            "--recipes",
            help="Recipe names, repeated or comma-separated, or all; scratch, output-l1 and fitnets by default.",
        ),
    ] = None,
    seeds: Annotated[int, typer.Option(min=1, max=1000, help="Students per recipe and teacher.")] = 3,
    steps: Annotated[int, typer.Option(min=1, max=10_000_000, help="Training steps per student, at most.")] = 600,
    student: Annotated[options.FamilyOption, typer.Option(help="Kind of student.")] = options.FamilyOption.residual_cnn,
    size: Annotated[options.SizeOption, typer.Option(help="Size of the students.")] = options.SizeOption.small,
    learning_rates: Annotated[
        str | None,
        typer.Option(
            metavar="R,R,...", help="Chosen from per recipe, by validation; 5e-3, 2e-3 and 1.2e-2 by default."
        ),
    ] = None,
    early_stopping: Annotated[
        bool, typer.Option(help="Keep the best student by validation, or the last, as papers do.")
    ] = True,
    tap: Annotated[
        str | None, typer.Option(help="Tensor that feature recipes read; the last paired layer by default.")
    ] = None,
    tiles: Annotated[int, typer.Option(min=1, max=10000, help="Square pieces cut from the data to train on.")] = 64,
    seed: options.Seed = 0,
    cache: Annotated[
        Path | None,
        typer.Option(help="Folder that keeps teacher queries and finished students: a stopped attack goes on there."),
    ] = None,
    backend: Annotated[
        options.BackendOption, typer.Option(help="This machine's cores or GPU, or a Ray cluster.")
    ] = options.BackendOption.joblib,
    value_range: options.ValueRange = None,
    layout: options.Layout = None,
    size_multiple: options.SizeMultiple = None,
    extra_input: options.ExtraInput = None,
    json: options.Json = None,
    list_recipes: Annotated[
        bool, typer.Option("--list-recipes", callback=_list_recipes, is_eager=True, help="Show the recipes and stop.")
    ] = False,
) -> None:
    """Distill students from the clean and from the hardened teacher and compare them."""

    from kdguard.export.files import check_outputs, write_json
    from kdguard.export.onnx_files import model_files
    from kdguard.runtime.red_team.attack import attack as run_attack
    from kdguard.runtime.red_team.options import DEFAULT_RECIPES, AttackOptions
    from kdguard.runtime.red_team.table import scoreboard_table
    from kdguard.runtime.shipped import shipped_files
    from kdguard.runtime.terminal import say, show

    check_outputs([json], [*model_files(teacher), *shipped_files(hardened)])
    attack_options = AttackOptions(
        recipes=split_names(recipes) if recipes else DEFAULT_RECIPES,
        seeds=seeds,
        tap=tap,
        tiles=tiles,
        seed=seed,
        backend=backend.value,
        training=options.training_options(steps, student, size, learning_rates, early_stopping),
    )
    overrides = options.card_overrides(value_range, layout, size_multiple, extra_input)
    outcome = run_attack(
        hardened, teacher, data, test_data, attack_options, task=task, cache=cache, overrides=overrides
    )
    show(scoreboard_table(outcome.scoreboard))
    for note in outcome.scoreboard.notes:
        say(f"note: {note}", "yellow")
    if json:
        write_json(json, outcome.scoreboard.model_dump())
