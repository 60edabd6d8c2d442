"""Finding the strongest compensated node that keeps the gates together with all other nodes."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import onnx

from kdguard.export.image_pairs import ImagePair
from kdguard.export.model_card import ModelCard
from kdguard.runtime.auto.plan import Plan, with_compensation
from kdguard.runtime.compensation.candidate import Compensation
from kdguard.runtime.compensation.reserve import Reserve
from kdguard.runtime.compensation.scan import WORTHWHILE_DB
from kdguard.runtime.fidelity import Quality, measure_fidelity
from kdguard.runtime.remembered import RememberedSession
from kdguard.runtime.session import RestorationSession
from kdguard.runtime.strip import measure_strip
from kdguard.runtime.terminal import progress_bar
from kdguard.runtime.tile_check import IDENTICAL_DB, measure_tiling

MAX_CANDIDATES, MAX_ATTEMPTS = 2, 4
WORTH_A_STEP = 1.2


def first_that_holds(
    model: onnx.ModelProto,
    card: ModelCard,
    base: Plan,
    candidates: Sequence[Compensation],
    check: Sequence[ImagePair],
    reserve: Reserve,
    tile_safe: bool,
) -> Plan | None:
    """The base plan with the best candidate that keeps the gates, all nodes together, and costs a stripper something.

    Returns:
        None if none does.
    """
    clean = RememberedSession(RestorationSession(model, card))
    clean_scores: dict[str, Quality] = {}

    def room(plan: Plan) -> float:
        applied = plan.apply(model)
        with progress_bar(f"checking {plan.sites[-1].layer} with all other nodes", len(check)) as advance:
            hardened = RestorationSession(applied, card)
            report, _ = measure_fidelity(
                clean, hardened, list(check), card.task, reserve.budget_db, advance, clean_scores
            )
        left = reserve.on_check(report)
        if tile_safe and (tiles := measure_tiling(model, applied, card, check)) and tiles.seams:
            left = min(left, 10 ** ((tiles.hardened_db - min(tiles.clean_db, IDENTICAL_DB)) / 10))
        return left

    def stripped_loss_db(held: Compensation) -> float:
        hardened = with_compensation(base, held).apply(model)
        return measure_strip(hardened, card, {}, check, []).stripped_loss_db

    found = [
        held
        for candidate in candidates[:MAX_CANDIDATES]
        if (held := strongest_that_holds(candidate, lambda tried: room(with_compensation(base, tried))))
        # What costs a stripper something on two trial images may help him on others.
        and held.outcome.strip_db >= WORTHWHILE_DB
        and stripped_loss_db(held) >= WORTHWHILE_DB
    ]
    best = max(found, key=lambda held: held.worth, default=None)
    return with_compensation(base, best) if best else None


def strongest_that_holds(candidate: Compensation, room: Callable[[Compensation], float]) -> Compensation | None:
    """Weaken a candidate until it holds, or strengthen one that leaves room; then halve what lies between.

    Args:
        room: by what factor the error may grow at this gain; below 1 a gate is broken.

    Returns:
        The strongest that held, or None.
    """
    held: Compensation | None = None
    broken, tried = 0.0, candidate
    for _ in range(MAX_ATTEMPTS):
        left = room(tried)
        if left >= 1:
            held = tried
        else:
            broken = tried.outcome.excess
        if held is None:
            tried = tried.weaker(left)
        elif broken:
            tried = candidate.at((held.outcome.excess + broken) / 2)
        elif left > WORTH_A_STEP:
            tried = held.stronger(left)
        else:
            break
        if held and abs(tried.outcome.excess) <= abs(held.outcome.excess) * 1.02:
            break
    return held
