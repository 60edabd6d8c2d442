"""A model's own card, or one worked out from its inputs, probes and images."""

from __future__ import annotations

from pathlib import Path

import onnx

from kdguard.export.errors import MissingDependencyError, UserError
from kdguard.export.image_pairs import load_pairs
from kdguard.export.model_card import CardOverrides, ModelCard, check_extra_inputs, infer_card, read_card
from kdguard.export.tasks import get_task
from kdguard.runtime.engines.session import Engine
from kdguard.runtime.probe import (
    PROBE_MULTIPLES,
    RANGE_PAIRS,
    best_value_range,
    close_calls,
    find_geometry,
    score_value_ranges,
)
from kdguard.runtime.session import RestorationSession
from kdguard.runtime.shipped import Shipped, card_of, layers_of
from kdguard.runtime.terminal import say
from kdguard.runtime.wording import counted


def resolve_card(
    model: onnx.ModelProto,
    task: str | None,
    where: str = "the model",
    overrides: CardOverrides | None = None,
    data: Path | None = None,
    *,
    borrowed: ModelCard | None = None,
) -> ModelCard:
    """The model's own card, or one worked out from its inputs and probe runs; its task is always known.

    Args:
        overrides: what the user says; it wins, and a card that says otherwise is told of.
        data: image pairs on which the value range is found where neither card nor user states it;
            without them it is [0, 1].
        borrowed: card to take where the model has none.

    Raises:
        UserError: neither card nor task, or they contradict each other; unreadable data.
    """
    overrides = CardOverrides() if overrides is None else overrides
    card = read_card(model) or borrowed
    known = card.task if card else None
    if task is not None and known is not None and task != known:
        in_pipeline = f"the pipeline says {task}; write task: {known}"
        said = in_pipeline if overrides.in_pipeline else f"--task says {task}; drop --task"
        raise UserError(f"{where} is a {known} model by its card and {said}")
    if task is None and known is None:
        raise UserError(f"{where} does not say what it restores; say it with --task")
    if card is not None:
        check_extra_inputs(model, overrides, where)
        card = card.model_copy(update={"task": get_task(task or known).name})
        wanted = overrides.apply(card)
        if contradicted := overrides.contradictions(card, wanted):
            say(f"{where}: {'; '.join(contradicted)}", "yellow")
        return wanted
    card = guess_card(model, get_task(task).name, where, overrides)
    if data is None or overrides.value_range is not None:
        return card
    return _with_value_range(RestorationSession(model, card), data, where, overrides)


def guess_card(
    model: onnx.ModelProto, task: str | None, where: str = "the model", overrides: CardOverrides | None = None
) -> ModelCard:
    """A foreign model's card from its inputs, with scale and size multiple found by running it.

    Raises:
        UserError: it does not behave like an image-to-image model.
        MissingDependencyError: nothing on this machine runs it.
    """
    overrides = CardOverrides() if overrides is None else overrides
    card = infer_card(model, task, where, overrides)
    try:
        session = RestorationSession(model, card, provider="cpu")
    except MissingDependencyError:  # a GPU, where there is one, may have what the CPU lacks
        session = RestorationSession(model, card)
    multiples = (overrides.size_multiple,) if overrides.size_multiple else PROBE_MULTIPLES
    return find_geometry(session, multiples, where)


def _with_value_range(session: RestorationSession, data: Path, where: str, overrides: CardOverrides) -> ModelCard:
    """The session's card in the value range that restores best, after saying so."""
    card = session.card
    pairs = load_pairs(data, get_task(card.task), card.channels, card.scale, limit=RANGE_PAIRS)
    scores = score_value_ranges(session, pairs)
    best = best_value_range(scores)
    listed = ", ".join(f"{low:g} to {high:g}: {score:.1f} dB" for (low, high), score in scores.items())
    option = overrides.option("value_range")
    say(f"{where}: value range {best[0]:g} to {best[1]:g} taken ({listed}); say {option} if that is wrong")
    if near := close_calls(scores, best):
        runner_up, others = near[0], " and ".join(f"{low:g} to {high:g}" for low, high in near)
        say(
            f"{where}: that was a close call: {best[0]:g} to {best[1]:g} was taken, and {others} "
            f"{'restores' if len(near) == 1 else 'restore'} about as well; state the range that the model was trained "
            f"with, as {overrides.range_option(best)} or {overrides.range_option(runner_up)}",
            "yellow",
        )
    return card.model_copy(update={"value_range": best})


def resolve_common_card(
    teacher: onnx.ModelProto,
    hardened: Shipped,
    task: str | None,
    where: str,
    overrides: CardOverrides | None = None,
    data: Path | None = None,
) -> ModelCard:
    """The card under which a teacher and its hardened model are compared.

    A foreign teacher borrows the card that hardening or building worked out for it.

    Args:
        overrides: as for `resolve_card`.
        data: likewise.

    Raises:
        UserError: as `resolve_card`, the two look swapped, or their cards or channels contradict each other.
    """
    if layers_of(teacher) and not layers_of(hardened):
        raise UserError(
            f"the teacher, {where}, contains kdguard nodes and the hardened model contains none: the two look swapped; "
            "exchange them"
        )
    first, second = read_card(teacher), card_of(hardened)
    tasks = {card.task for card in (first, second) if card and card.task}
    if first and second and (len(tasks) > 1 or first.model_copy(update={"task": second.task}) != second):
        raise UserError(
            f"{where} ({first.describe()}) and the hardened model ({second.describe()}) have different model cards; "
            "is this its teacher?"
        )
    known = task or (tasks.pop() if tasks else None)
    card = resolve_card(teacher, known, where, overrides, data, borrowed=second)
    clean, other = (_declared_channels(model, card) for model in (teacher, hardened))
    if clean and other and clean != other:
        raise UserError(
            f"{where} takes images of {counted(clean, 'channel')} and the hardened model of "
            f"{counted(other, 'channel')}; is this its teacher?"
        )
    return card


def _declared_channels(model: Shipped, card: ModelCard) -> int:
    """Of the image input, as its shape says; 0 where it does not."""
    if isinstance(model, Engine):
        return model.manifest.card.channels
    for value in model.graph.input:
        sides = value.type.tensor_type.shape.dim
        if value.name == card.input_name and len(sides) == 4:
            return sides[3 if card.layout == "NHWC" else 1].dim_value
    return 0
