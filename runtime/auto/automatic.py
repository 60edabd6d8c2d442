"""Plans for `--placement auto`, `paired` and `compensated`, from calibration images."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial

import onnx

from kdguard.export.errors import GateFailedError, UserError
from kdguard.export.model_card import ModelCard
from kdguard.graph_passes.op import SvdPerturbAttributes
from kdguard.runtime.analysis import Analysis
from kdguard.runtime.auto import paired
from kdguard.runtime.auto.check import MAX_CANDIDATES, first_that_holds
from kdguard.runtime.auto.options import HardenOptions
from kdguard.runtime.auto.plan import Plan, choose_pairs, in_path_cost
from kdguard.runtime.auto.split import Split
from kdguard.runtime.compensation import search
from kdguard.runtime.compensation.candidate import is_refittable
from kdguard.runtime.compensation.reserve import Reserve
from kdguard.runtime.compensation.scan import WORTHWHILE_DB
from kdguard.runtime.compensation.search import Found
from kdguard.runtime.wording import change, closeness

NONE_HELD = (
    "no compensated node: none of those that held on trial images kept its distance from the gates on the last check, "
    f"without seams, and cost a stripper {WORTHWHILE_DB} dB or more there"
)
TOO_FEW = "no compensated node: weights are fitted to some images and checked on others, which takes four or more"


def choose_compensated(
    model: onnx.ModelProto, card: ModelCard, analysis: Analysis, images: Split, layers: Sequence[str], reserve: Reserve
) -> Found:
    """Candidates for the compensated node among `layers`."""
    usable = [layer.name for layer in analysis.layers if layer.name in layers and not layer.dead and layer.influences]

    def slowdown(name: str, attributes: SvdPerturbAttributes) -> float:
        return in_path_cost(analysis, name, attributes) / analysis.cost

    return search.search(model, card, usable, images.fit, images.trial, reserve, slowdown)


def plan_auto(
    model: onnx.ModelProto,
    card: ModelCard,
    analysis: Analysis,
    images: Split,
    options: HardenOptions,
    layers: Sequence[str] | None = None,
) -> Plan:
    """Layers, gains and weights for `--placement auto`, `paired` or `compensated`.

    Args:
        layers: candidates for the compensated node; all by default.

    Raises:
        UserError: no layer is eligible, or none of those named can be compensated.
        GateFailedError: a compensated node alone was asked for and none keeps the gates and is worth it.
    """
    placement, tile_safe = options.placement, options.tile_safe
    reserve = Reserve(options.budget_db)
    names = list(layers) if layers is not None else [layer.name for layer in analysis.layers]
    sought = Found([])
    if placement == "compensated" and layers and not any(is_refittable(model, name) for name in layers):
        raise UserError(
            f"layer {layers[0]!r} cannot be compensated: not all of its readers are 2-D convolutions with constant "
            "weights, or they are too wide; choose other --layers, or use --placement paired"
        )
    if placement == "compensated" and not images.disjoint:
        raise UserError(f"{TOO_FEW}; give more calibration images, or use --placement paired")
    if placement in ("auto", "compensated") and images.disjoint:
        sought = choose_compensated(model, card, analysis, images, names, reserve)
    candidates = sought.kept
    if placement == "compensated":
        found = first_that_holds(model, card, Plan([]), candidates, images.check, reserve, tile_safe)
        if found is None:
            raise GateFailedError(_nothing_compensated(sought, tile_safe))
        return found
    pairs = partial(choose_pairs, model, card, analysis, images.trial, options)
    found = None
    if candidates:
        spare = in_path_cost(analysis, candidates[0].layer, candidates[0].attributes)
        base = pairs(spare, {candidate.layer for candidate in candidates[:MAX_CANDIDATES]})
        found = first_that_holds(model, card, base, candidates, images.check, reserve, tile_safe)
    if found is not None:
        return found
    base = pairs(0.0)  # no compensated node holds: its layer and its share of the time are free
    if candidates or (placement == "auto" and not images.disjoint):
        base = replace(base, notes=(*base.notes, NONE_HELD if candidates else TOO_FEW))
    if not base.sites:
        raise UserError(
            "the model has no eligible layer: every feature map is dead, without influence, has fewer than "
            f"{paired.MIN_CHANNELS} channels or cannot be moved; see `kdguard inspect MODEL --data DIR`"
        )
    return base


def _nothing_compensated(sought: Found, tile_safe: bool) -> str:
    gates = "keeps its distance from the gates, shows no seams" if tile_safe else "keeps its distance from the gates"
    advice = (
        "Nothing was written; give more images or other --layers, or use --placement paired; a larger --budget-db "
        "helps only where the loss is what binds"
    )
    if not (tried := [*sought.kept, sought.closest][0]):
        return f"no layer can be compensated: none that is alive is read by plain convolutions only. {advice}"
    outcome = tried.outcome
    found = (
        f"{tried.layer} at gain {tried.attributes.gain:.2f} (on trial images it {change(outcome.loss_db, 3)} and is "
        f"{closeness(outcome.margin_db)}; whoever strips it {change(outcome.strip_db, 1)})"
    )
    where = "on the images of the last check" if sought.kept else "on trial images"
    strip = f"costs a stripper {WORTHWHILE_DB} dB or more"
    return f"no compensated layer {gates} and {strip} {where}; the best found was {found}. {advice}"
