"""What to do to a model: layers, gains and refitted weights."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace

import onnx

from kdguard.export.image_pairs import ImagePair
from kdguard.export.model_card import ModelCard
from kdguard.graph_passes.costs import op_cost
from kdguard.graph_passes.insert_svd_perturb import InsertSvdPerturb, Site
from kdguard.graph_passes.op import SvdPerturbAttributes
from kdguard.graph_passes.refit_consumers import RefitConsumers
from kdguard.runtime.analysis import Analysis, LayerAnalysis
from kdguard.runtime.analysis.analyse import without_influence
from kdguard.runtime.auto import paired
from kdguard.runtime.auto.options import HardenOptions
from kdguard.runtime.compensation.candidate import Compensation
from kdguard.runtime.compensation.statistics import Refit

COMPENSATED_RULES = """\
7. Compensated can be a map that only 2-D convolutions with constant weights read. The last three before the output
   and the two for which stripping costs most per unit of what the refit leaves over are tried, rank 2 and 8, gain
   above and below 1.
8. Of the gains that keep 17.5 dB between hardened and clean over the teacher's own PSNR (12 on the worst image;
   53.5 dB in all, 56 where the teacher itself stays below 25 dB on these images), six tenths of the budget and
   0.0006 of SSIM on images that the weights were not fitted on, the one that costs a stripper most is taken, less
   1 dB for every percent of time that it is estimated to cost (time ranks them, it excludes none).
9. On further images all nodes together keep 0.5 dB more than the gates ask for, the distances of rule 8 that hold in
   all, three quarters of the budget and 0.0007 of SSIM; the gain is weakened until they do. A node whose deletion then
   costs less than 0.3 dB, on the images of rule 8 or on these, is left out. Fewer than four images give none."""


@dataclass(frozen=True)
class Plan:
    """What the passes shall do.

    Attributes:
        refits: new weights per output name of a convolution.
        reasons: why each layer was chosen.
        rules: the rules that were applied.
        coverage: paired taps of the middle third, and how many there are; see `paired.covered`.
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
    options: HardenOptions,
    spare: float,
    reserved: Collection[str] = (),
) -> Plan:
    """The paired part of a plan.

    Args:
        pairs: to see whether a chosen layer reaches the output; one that does not is replaced.
        spare: cost of other nodes that count against the limit, in multiply-adds.
        reserved: layers left to a compensated node.
    """
    max_slowdown, gain = options.max_slowdown, options.fixed_gain
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
        Site(entry.layer, paired.paired_attributes(by_name[entry.layer], gain or entry.gain, options.seed))
        for entry in chosen
    ]
    slowdown = 1 + (spare + sum(paired.pair_cost(by_name[entry.layer]) for entry in chosen)) / analysis.cost
    over = (
        f"one layer at each of three depths is hardened whatever it costs: estimated time {slowdown:.2f} of the clean "
        f"model's; --max-slowdown ({max_slowdown:g}) holds for further layers. --placement compensated, or --layers "
        "with fewer names, is faster",
    )
    return Plan(
        sites,
        reasons={entry.layer: entry.reason for entry in chosen},
        rules=paired.RULES,
        coverage=paired.covered(analysis, [site.layer for site in sites if _misleads(site, by_name)]),
        notes=over if slowdown > max_slowdown else (),
    )


def _misleads(site: Site, by_name: Mapping[str, LayerAnalysis]) -> bool:
    """Whether a map moves as far as is asked of a pair; a gain that the user fixed may move it less."""
    return paired.expected_distortion(by_name[site.layer], site.attributes) >= paired.MIN_DISTORTION


def in_path_cost(analysis: Analysis, name: str, attributes: SvdPerturbAttributes) -> float:
    """Of a compensated node, in multiply-adds of convolution."""
    layer = analysis.by_name()[name]
    return op_cost(layer.values, layer.shape[1], attributes.rank, paired=False)


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
