"""`kdguard verify`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from kdguard.runtime.commands import options


def verify(
    teacher: Annotated[Path, typer.Argument(help="The clean teacher.")],
    hardened: Annotated[Path, typer.Argument(help="The hardened model, or an engine built from it.")],
    data: options.Data,
    task: options.Task = None,
    budget_db: options.BudgetDb = 0.1,
    provider: options.Provider = options.ProviderOption.auto,
    seed: options.Seed = 0,
    value_range: options.ValueRange = None,
    layout: options.Layout = None,
    size_multiple: options.SizeMultiple = None,
    extra_input: options.ExtraInput = None,
    json: options.Json = None,
) -> None:
    """Check that the hardened model still does the teacher's job. Exits with 1 where it does not."""
    from kdguard.export.errors import GateFailedError
    from kdguard.export.files import check_outputs, write_json
    from kdguard.export.image_pairs import load_pairs
    from kdguard.export.onnx_files import load_onnx, model_files
    from kdguard.export.tasks import get_task
    from kdguard.runtime.fidelity import measure_fidelity
    from kdguard.runtime.manifest import other_teacher
    from kdguard.runtime.resolve_card import resolve_common_card
    from kdguard.runtime.shipped import layers_of, load_shipped, shipped_files, start
    from kdguard.runtime.tables import fidelity_table
    from kdguard.runtime.terminal import progress_bar, say, show

    check_outputs([json], [*model_files(teacher), *shipped_files(hardened)])
    models = load_onnx(teacher), load_shipped(hardened)
    overrides = options.card_overrides(value_range, layout, size_multiple, extra_input)
    card = resolve_common_card(*models, task, str(teacher), overrides, data)
    pairs = load_pairs(data, get_task(card.task), card.channels, card.scale, seed)
    clean, hard = (start(model, card, provider=provider.value) for model in models)
    with progress_bar("comparing", len(pairs)) as advance:
        report, _ = measure_fidelity(clean, hard, pairs, card.task, budget_db, advance)
    show(fidelity_table(report))
    layers = len(layers_of(models[1]))
    if not layers:  # allowed: prior defences, as `kdguard baseline` makes them, are measured in the same way
        say("the second model holds no kdguard nodes: nothing is hardened in it", "yellow")
    if json:
        write_json(json, report.model_dump() | {"hardened_layers": layers})
    if not report.within_budget:
        reasons = [*report.failures(), other_teacher(hardened, teacher)]
        raise GateFailedError(f"fidelity gate failed: {'; '.join(filter(None, reasons))}")
