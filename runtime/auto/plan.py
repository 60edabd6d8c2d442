"""What to do to a model: layers, gains and refitted weights, worked out from calibration images."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace

import onnx

from kdguard.export.errors import GateFailedError, UserError
from kdguard.export.image_pairs import ImagePair
from kdguard.export.model_card import ModelCard
from kdguard.graph_passes.costs import op_cost
from kdguard.graph_passes.insert_svd_perturb import InsertSvdPerturb, Site
from kdguard.graph_passes.refit_consumers import RefitConsumers
from kdguard.runtime.analysis import Analysis
from kdguard.runtime.analysis.analyse import without_influence
from kdguard.runtime.auto import paired
from kdguard.runtime.auto.split import Split
from kdguard.runtime.compensation import search
from kdguard.runtime.compensation.candidate import Compensation, is_refittable
from kdguard.runtime.compensation.scan import WORTHWHILE_DB, least_between
from kdguard.runtime.compensation.search import Found
from kdguard.runtime.compensation.statistics import Refit
from kdguard.runtime.fidelity import WORST_MARGIN_DB, FidelityReport, measure_fidelity
from kdguard.runtime.session import RestorationSession
from kdguard.runtime.terminal import progress_bar
from kdguard.runtime.tile_check import IDENTICAL_DB, measure_tiling

COMPENSATED_RULES = """\
7. Compensated can be a map that only 2-D convolutions with constant weights read. The last three before the output
   and the two for which stripping costs most per unit of what the refit leaves over are tried, rank 2 and 8, gain
   above and below 1.
8. Of the gains that keep 17.5 dB between hardened and clean over the teacher's own PSNR (12 on the worst image;
   53.5 dB in all, 56 where the teacher itself stays below 25 dB on these images), six tenths of the budget and
   0.0006 of SSIM on images that the weights were not fitted on, the one that costs a stripper most is taken; all
   nodes together then have to keep the gates on further images."""
CHECK_MARGIN_DB, CHECK_SSIM = 0.5, 0.0007
"""Kept from the gates on the images of the last check, for images that are different."""
CHECK_SHARE = 0.75
MAX_CANDIDATES, MAX_ATTEMPTS = 2, 4
WORTH_A_STEP = 1.2


@dataclass(frozen=True)
class Plan:
    """What the passes shall do.

    Attributes:
        refits: new weights per output name of a convolution.
        reasons: why each layer was chosen.
        rules: the rules that were applied.
        coverage: perturbed taps of the middle third, and how many there are.
        notes: what the user should know.
    """

    sites: list[Site]
    refits: Mapping[str, Refit] = field(default_factory=dict)
    reasons: Mapping[str, str] = field(default_factory=dict)
    rules: str = ""
    coverage: tuple[int, int] | None = None
    notes: tuple[str, ...] = ()

    def apply(self, model: onnx.ModelProto) -> onnx.ModelProto:
        """Refit first, so that the readers are still found by their clean input; then insert."""
        weights = {output: (refit.weight, refit.bias) for output, refit in self.refits.items()}
        return InsertSvdPerturb(sites=self.sites)(RefitConsumers(weights)(model).model).model


def choose_pairs(
    model: onnx.ModelProto,
    card: ModelCard,
    analysis: Analysis,
    pairs: Sequence[ImagePair],
    *,
    seed: int,
    gain: float | None,
    spare: float,
    max_slowdown: float,
    reserved: Collection[str] = (),
) -> Plan:
    """The paired part of a plan.

    Args:
        pairs: to see whether a chosen layer reaches the output; one that does not is replaced.
        gain: for all layers; None for each layer's own.
        reserved: layers left to a compensated node.
    """
    while chosen := paired.choose_paired(analysis, spare, max_slowdown, reserved):
        by_name = analysis.by_name()
        useless = without_influence(model, card, pairs, [by_name[entry.layer] for entry in chosen])
        if not useless:
            break
        layers = [
            layer.model_copy(update={"influences": layer.influences and layer.name not in useless})
            for layer in analysis.layers
        ]
        analysis = analysis.model_copy(update={"layers": layers})
    by_name = analysis.by_name()
    sites = [
        Site(entry.layer, paired.paired_attributes(by_name[entry.layer], gain or entry.gain, seed)) for entry in chosen
    ]
    slowdown = 1 + (spare + sum(paired.pair_cost(by_name[entry.layer]) for entry in chosen)) / analysis.cost
    over = (
        f"estimated time {slowdown:.2f} of the clean model's, over --max-slowdown {max_slowdown:g}: the three depths "
        "come first; --placement compensated, or --layers with fewer names, is faster",
    )
    return Plan(
        sites,
        reasons={entry.layer: entry.reason for entry in chosen},
        rules=paired.RULES,
        coverage=paired.covered(analysis, [entry.layer for entry in chosen]),
        notes=over if slowdown > max_slowdown else (),
    )


def choose_compensated(
    model: onnx.ModelProto, card: ModelCard, analysis: Analysis, images: Split, layers: Sequence[str], budget_db: float
) -> Found:
    """Candidates for the compensated node among `layers`."""
    usable = [layer.name for layer in analysis.layers if layer.name in layers and not layer.dead and layer.influences]
    return search.search(model, card, usable, images.fit, images.trial, budget_db)


def in_path_cost(analysis: Analysis, candidate: Compensation) -> float:
    """Of the compensated node, in multiply-adds of convolution."""
    layer = analysis.by_name()[candidate.layer]
    return op_cost(layer.values, layer.shape[1], candidate.attributes.rank, paired=False)


def with_compensation(plan: Plan, compensation: Compensation) -> Plan:
    """A plan with the compensated node added."""
    site = Site(compensation.layer, compensation.attributes, "in-path")
    outcome = compensation.outcome
    reason = f"compensated: stripping it costs about {outcome.strip_db:.1f} dB on trial images"
    return replace(
        plan,
        sites=[*plan.sites, site],
        refits=compensation.refits,
        reasons={**plan.reasons, compensation.layer: reason},
        rules=f"{plan.rules}\n{COMPENSATED_RULES}".strip(),
    )


def room_left(report: FidelityReport, least_between_db: float = 0.0) -> float:
    """By what factor the error energy may grow before a gate comes too close; below 1 it has to shrink.

    Args:
        least_between_db: asked of hardened against clean beside the gate's own floor.
    """
    if not report.finite:
        return 0.01
    floor = max(report.psnr_between_floor_db + CHECK_MARGIN_DB, least_between_db)
    ratios = [10 ** ((report.psnr_between_db - floor) / 10)]
    ratios.append(10 ** ((report.worst_margin_db - WORST_MARGIN_DB - CHECK_MARGIN_DB) / 10))
    for spent, limit in ((report.delta_psnr_db, CHECK_SHARE * report.budget_db), (report.delta_ssim, CHECK_SSIM)):
        if spent > 0:
            ratios.append(limit / spent)
    return min(ratios)


def first_that_holds(
    model: onnx.ModelProto,
    card: ModelCard,
    base: Plan,
    candidates: Sequence[Compensation],
    check: Sequence[ImagePair],
    budget_db: float,
    tile_safe: bool,
) -> Plan | None:
    """The base plan with the best candidate that keeps the gates, all nodes together; None if none does."""
    clean = RestorationSession(model, card)

    def room(plan: Plan) -> float:
        applied = plan.apply(model)
        with progress_bar(f"checking {plan.sites[-1].layer} with all other nodes", len(check)) as advance:
            hardened = RestorationSession(applied, card)
            report, _ = measure_fidelity(clean, hardened, list(check), card.task, budget_db, advance)
        left = room_left(report, least_between(report.teacher.psnr))
        if tile_safe and (tiles := measure_tiling(model, applied, card, check)) and tiles.seams:
            left = min(left, 10 ** ((tiles.hardened_db - min(tiles.clean_db, IDENTICAL_DB)) / 10))
        return left

    found = [
        held
        for candidate in candidates[:MAX_CANDIDATES]
        if (held := strongest_that_holds(candidate, lambda tried: room(with_compensation(base, tried))))
        and held.outcome.strip_db >= WORTHWHILE_DB
    ]
    best = max(found, key=lambda held: held.outcome.strip_db, default=None)
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


def plan_auto(
    model: onnx.ModelProto,
    card: ModelCard,
    analysis: Analysis,
    images: Split,
    *,
    placement: str,
    gain: float | None,
    budget_db: float,
    max_slowdown: float,
    seed: int,
    layers: Sequence[str] | None = None,
    tile_safe: bool = False,
) -> Plan:
    """Layers, gains and weights for `--placement auto`, `paired` or `compensated`.

    Args:
        layers: candidates for the compensated node; all by default.
        tile_safe: pass over compensated nodes that show seams between tiles.

    Raises:
        UserError: no layer is eligible, or none of those named can be compensated.
        GateFailedError: a compensated node alone was asked for and none stays inside the budget.
    """
    names = list(layers) if layers is not None else [layer.name for layer in analysis.layers]
    sought = Found([])
    if placement == "compensated" and layers and not any(is_refittable(model, name) for name in layers):
        raise UserError(
            f"layer {layers[0]!r} cannot be compensated: not all of its readers are 2-D convolutions with constant "
            "weights, or they are too wide; choose other --layers, or use --placement paired"
        )
    if placement in ("auto", "compensated"):
        sought = choose_compensated(model, card, analysis, images, names, budget_db)
    candidates = sought.kept
    if placement == "compensated":
        found = first_that_holds(model, card, Plan([]), candidates, images.check, budget_db, tile_safe)
        if found is None:
            raise GateFailedError(_nothing_compensated(sought, tile_safe))
        return found
    spare = in_path_cost(analysis, candidates[0]) if candidates else 0.0
    base = choose_pairs(
        model,
        card,
        analysis,
        images.trial,
        seed=seed,
        gain=gain,
        spare=spare,
        max_slowdown=max_slowdown,
        reserved={candidate.layer for candidate in candidates[:MAX_CANDIDATES]},
    )
    found = first_that_holds(model, card, base, candidates, images.check, budget_db, tile_safe) if candidates else None
    if found is not None:
        return found
    if not base.sites:
        raise UserError(
            "the model has no eligible layer: every feature map is dead, without influence, has fewer than "
            f"{paired.MIN_CHANNELS} channels or cannot be moved; see `kdguard inspect MODEL --data DIR`"
        )
    return base


def _nothing_compensated(sought: Found, tile_safe: bool) -> str:
    gates = "stays within the budget and shows no seams" if tile_safe else "stays within the budget"
    advice = "Nothing was written; raise --budget-db, give more images, or use --placement paired"
    if not (tried := [*sought.kept, sought.closest][0]):
        return f"no layer can be compensated: none that is alive is read by plain convolutions only. {advice}"
    outcome = tried.outcome
    found = (
        f"{tried.layer} at gain {tried.attributes.gain:.2f} (on trial images loss {outcome.loss_db:.3f} dB, "
        f"{outcome.margin_db:.1f} dB closer to the clean teacher than that is to the truth, stripping costs "
        f"{outcome.strip_db:.1f} dB)"
    )
    where = "on the images of the last check" if sought.kept else "on trial images and costs a stripper anything"
    return f"no compensated layer {gates} {where}; the best found was {found}. {advice}"
