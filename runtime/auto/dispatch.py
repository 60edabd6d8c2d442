"""From what the user asked for to a plan: named layers or chosen ones, given gains or calibrated ones."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

import onnx

from kdguard.export.errors import UserError
from kdguard.export.image_pairs import ImagePair
from kdguard.export.model_card import ModelCard
from kdguard.graph_passes.insert_svd_perturb import Site
from kdguard.graph_passes.inventory import hardened_layers
from kdguard.graph_passes.layers import find_layers, find_obstacles, infer_value_infos, select_layers
from kdguard.graph_passes.op import SvdPerturbAttributes
from kdguard.runtime.analysis import Analysis, analyse
from kdguard.runtime.auto import paired
from kdguard.runtime.auto.automatic import plan_auto
from kdguard.runtime.auto.in_path import plan_in_path
from kdguard.runtime.auto.options import HardenOptions
from kdguard.runtime.auto.plan import Plan
from kdguard.runtime.auto.split import CHECK_IMAGES, Split, split
from kdguard.runtime.session import RestorationSession
from kdguard.runtime.wording import counted

UNCALIBRATED_GAIN = 10.0
FEW_IMAGES = (
    "fewer than four calibration images: the gates were checked on the same ones, and no attacker's refit was tried"
)


def few_to_check(images: int) -> str:
    """A note where fewer images than usual carry every figure."""
    return (
        f"the gates, and what the strip and tile checks say, rest on {counted(images, 'image')}: every fourth pair "
        f"checks; {4 * CHECK_IMAGES} pairs give {CHECK_IMAGES}"
    )


@dataclass(frozen=True)
class Planned:
    """A plan and what it was made from.

    Attributes:
        check: images that the gates are measured on. No weight was fitted on them unless there were
            fewer than four, though a compensated or in-path gain is weakened or strengthened by them.
        spare: images for an attacker's refit.
    """

    plan: Plan
    check: list[ImagePair]
    spare: list[ImagePair] = field(default_factory=list)
    analysis: Analysis | None = None


def make_plan(
    model: onnx.ModelProto, card: ModelCard | None, pairs: Sequence[ImagePair], options: HardenOptions
) -> Planned:
    """Work out sites and refits.

    Raises:
        UserError: unknown layers, none eligible, or calibration asked for without data.
        GateFailedError: no gain keeps the gates.
    """
    if options.tile_safe and card is not None and card.fixed_size is not None and not options.only_pairs:
        raise UserError(
            "--tile-safe cannot be judged: the model takes one size only, so there is no whole image to compare tiles "
            "with; leave it out, or use --placement paired"
        )
    named = [] if options.chooses_layers else _named(model, options)
    has_data = card is not None and bool(pairs)
    if options.needs_data and not has_data:
        raise UserError(
            "choosing layers or gains needs calibration images: give --data and --task, or name --layers and give "
            "--gain; --data is a folder with clean/ and degraded/, or with clean/ alone"
        )
    if options.tile_safe and not has_data and not options.only_pairs:
        raise UserError(
            "--tile-safe cannot be judged without images: give --data (and --task), or use --placement paired"
        )
    if not options.needs_data and (options.fixed_gain is not None or not has_data):
        uncalibrated = (f"gains are not calibrated without --data: {UNCALIBRATED_GAIN:g} everywhere",)
        notes = () if options.fixed_gain is not None else uncalibrated
        return Planned(Plan(_explicit(named, options), notes=(*notes, *_unused(options))), list(pairs))
    assert card is not None
    if before := hardened_layers(model):
        raise UserError(
            f"the model is already hardened ({before[0].layer!r}): choosing layers or gains starts from the clean "
            "teacher; to add single layers, name them and give --gain"
        )
    sensitivity = options.placement == "in-path"
    modulated = options.attributes is not None and bool(options.attributes.modulation)
    if sensitivity and modulated and options.fixed_gain is None:
        raise UserError("gains of modulated in-path nodes are not calibrated; give --gain, or drop --modulation")
    analysis = analyse(model, card, pairs, cache=options.cache, sensitivity=sensitivity)
    images = split(pairs, card, analysis, RestorationSession(model, card))
    notes = () if images.disjoint else (FEW_IMAGES,)
    if images.disjoint and len(images.check) < CHECK_IMAGES:
        notes = (few_to_check(len(images.check)),)
    plan = _plan(model, card, analysis, images, named, options)
    plan = replace(plan, notes=(*plan.notes, *notes, *_unused(options)))
    # What an attacker refits on may not be what he is scored on.
    spare = [*images.trial, *images.fit] if images.disjoint else []
    return Planned(plan, images.check, spare, analysis)


def _unused(options: HardenOptions) -> tuple[str, ...]:
    """A note where the user fixed something that kdguard chooses, or that serves another placement."""
    automatic = options.chooses_layers or options.placement == "compensated"
    given: set[str] = set()
    if automatic and options.placement != "in-path" and options.attributes:
        given = {*options.attributes.model_dump(exclude_defaults=True)} - {"pattern", "gain"}
        given |= {"rank"} & options.attributes.model_fields_set
    if options.placement == "compensated" and options.fixed_gain is not None:
        given.add("gain")
    pairs_are_chosen = options.chooses_layers and options.placement in ("auto", "paired")
    if options.max_slowdown != HardenOptions().max_slowdown and not pairs_are_chosen:
        given.add("max-slowdown")
    if options.tile_safe and options.only_pairs:
        given.add("tile-safe")
    if not given:
        return ()
    return (f"not used: {', '.join(sorted(given))}; the placement or the rules decide it, docs/hardening.md says how",)


def _named(model: onnx.ModelProto, options: HardenOptions) -> list[str]:
    values = infer_value_infos(model)
    layers = find_layers(model, values)
    chosen = select_layers(layers, options.globs, options.op_types, find_obstacles(model, values))
    return [layer.name for layer in chosen]


def _explicit(named: Sequence[str], options: HardenOptions) -> list[Site]:
    attributes = options.attributes or SvdPerturbAttributes()
    attributes = attributes.model_copy(update={"gain": options.fixed_gain or UNCALIBRATED_GAIN})
    placement: Literal["in-path", "paired"] = "in-path" if options.placement == "in-path" else "paired"
    return [Site(layer, attributes, placement) for layer in named]


def _plan(
    model: onnx.ModelProto,
    card: ModelCard,
    analysis: Analysis,
    images: Split,
    named: Sequence[str],
    options: HardenOptions,
) -> Plan:
    if options.placement == "in-path":
        layers = named or _least_sensitive(analysis)
        if options.fixed_gain is not None:
            return Plan(_explicit(layers, options), reasons=dict.fromkeys(layers, "bears the largest in-path gain"))
        attributes = options.attributes or SvdPerturbAttributes()
        return plan_in_path(model, card, analysis, layers, attributes, images.check, options.budget_db)
    if named and options.placement != "compensated":
        return _pair_named(analysis, named, options)
    return plan_auto(model, card, analysis, images, options, named or None)


def _least_sensitive(analysis: Analysis) -> list[str]:
    """The one map that bears the largest in-path gain."""
    usable = [layer for layer in analysis.layers if not layer.dead and layer.influences and layer.shape[1] > 1]
    if not usable:
        raise UserError("the model has no eligible layer: every feature map is dead or without influence")
    return [max(usable, key=lambda layer: layer.psnr_between_db or 0.0).name]


def _pair_named(analysis: Analysis, named: Sequence[str], options: HardenOptions) -> Plan:
    by_name, sites = analysis.by_name(), []
    for name in named:
        if (layer := by_name.get(name)) is None or layer.dead:
            why = analysis.skipped.get(name, "it is dead: there is nothing to perturb")
            raise UserError(f"layer {name!r} cannot be given a gain by calibration ({why}); leave it out")
        given = options.attributes or paired.paired_attributes(layer, paired.MIN_GAIN, options.seed)
        if (gain := paired.gain_for(layer, given)) is None:
            raise UserError(
                f"layer {name!r} cannot be given a gain by calibration (not even gain {paired.MAX_GAIN:g} is expected "
                f"to move it by {paired.MIN_DISTORTION:g} of its own norm); leave it out, or give --gain"
            )
        sites.append(Site(name, given.model_copy(update={"gain": gain})))
    return Plan(sites, reasons=dict.fromkeys(named, "asked for; gain from calibration"))
