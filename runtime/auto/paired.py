"""Choosing the paired layers."""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass

import numpy as np

from kdguard.graph_passes import costs
from kdguard.graph_passes.op import SvdPerturbAttributes
from kdguard.graph_passes.op.conventions import TAIL_GROUPS, Modulation
from kdguard.graph_passes.op.keys import draw_key
from kdguard.runtime.analysis import Analysis, LayerAnalysis

RULES = """\
1. Eligible is a map that is alive, influences the output, has at least 8 channels, and that a gain of at most
   100 moves by its own norm or more.
2. Three depths come first, whatever they cost: a third, a half and two thirds of the model. For each, of the maps
   within an eighth of it that no depth before it has taken, the one that is cheapest to perturb, the nearer one where
   two cost the same. Where there is none, the nearest map of all, unless a depth before has taken it. Between a
   convolution and its activation costs half as much again: runtimes fuse the two.
3. Then, while the estimated slowdown stays within the limit, further maps of the middle third, cheapest first.
4. Rank 1, centred, adaptive, sign driven by the tail. Further singular vectors cost time.
5. The gain is the smallest from 10 up that is expected to move the map by twice its own norm, on the crops that were
   analysed; on whole images it may move it by less.
6. Singular vectors come from every fifth row; the change is handed to the restorer, so this costs no exactness."""

DEPTHS = (1 / 3, 1 / 2, 2 / 3)
REACH = 1 / 8
MIN_CHANNELS = 8
RANK, ROW_STRIDE = 1, 5
MIN_GAIN, MAX_GAIN = 10.0, 100.0
TARGET_DISTORTION = 2.0
MIN_DISTORTION = 1.0
FLIPPED = 3 / 8
"""Share of positions whose sign a symmetric tail flips; see docs/op.md."""
CHOSEN = SvdPerturbAttributes(
    rank=RANK,
    gain=MIN_GAIN,
    centred=True,
    adaptive=1.0,
    modulation=Modulation.TAIL_SIGN,
    pattern=(1.0,),
    stride=ROW_STRIDE,
)
"""Rules 4 and 6; gain and key are each layer's own."""


@dataclass(frozen=True)
class PairedLayer:
    """A layer chosen for a paired node, and why."""

    layer: str
    gain: float
    reason: str


def pair_cost(layer: LayerAnalysis) -> float:
    """Of one paired node, in multiply-adds of convolution."""
    return costs.pair_cost(layer.values, layer.shape[1], RANK, layer.op_type, layer.readers)


def expected_distortion(layer: LayerAnalysis, attributes: SvdPerturbAttributes) -> float:
    """|perturbed - clean| / |clean| that a node with these attributes is expected to reach, from the layer's spectrum.

    Taken for granted: a tail-driven sign flips at `FLIPPED` of the positions, the stride changes nothing, and a
    coherence cap binds at all positions or at none.
    """
    share = _top_share(layer, attributes)
    factor = 1 + (attributes.gain - 1) * share ** (-attributes.adaptive / 2)
    if attributes.modulation == Modulation.PATTERN:
        squared = float(np.mean((factor ** np.array(attributes.pattern) - 1) ** 2))
    elif attributes.modulation == Modulation.TAIL_SIGN:
        squared = (1 - FLIPPED) * (factor - 1) ** 2 + FLIPPED * (factor + 1) ** 2
    else:
        squared = (factor - 1) ** 2
    return min((squared * share) ** 0.5 * _relative_norm(layer, attributes), _cap(layer, attributes))


def _top_share(layer: LayerAnalysis, attributes: SvdPerturbAttributes) -> float:
    """Energy in the top `rank` components; between the ranks of the analysis on a straight line, which is below it."""
    measured = layer.centred_share if attributes.centred else layer.energy_share
    known = {rank: share for rank, share in sorted(measured.items()) if rank < layer.shape[1]} | {layer.shape[1]: 1.0}
    return max(float(np.interp(attributes.rank, list(known), list(known.values()))), 1e-12)


def _relative_norm(layer: LayerAnalysis, attributes: SvdPerturbAttributes) -> float:
    """Of what the op decomposes, against the whole map's."""
    return (layer.variation / max(layer.energy, 1e-300)) ** 0.5 if attributes.centred else 1.0


def _cap(layer: LayerAnalysis, attributes: SvdPerturbAttributes) -> float:
    """The largest relative distortion that `coherence` allows."""
    return attributes.coherence * _relative_norm(layer, attributes) if attributes.coherence else math.inf


def gain_for(layer: LayerAnalysis, attributes: SvdPerturbAttributes = CHOSEN) -> float | None:
    """The smallest gain from `MIN_GAIN` up that reaches the target, or None where `MAX_GAIN` moves too little.

    What a coherence cap does not allow is not aimed at: more gain would only make the cap bind everywhere.

    Args:
        attributes: of the node that is inserted; their own gain does not matter.
    """
    cap = _cap(layer, attributes)

    def moves(gain: float, wanted: float) -> bool:
        return expected_distortion(layer, attributes.model_copy(update={"gain": gain})) >= min(wanted, cap)

    for gain in np.geomspace(MIN_GAIN, MAX_GAIN, 11):
        if moves(float(gain), TARGET_DISTORTION):
            return round(float(gain), 2)
    return MAX_GAIN if moves(MAX_GAIN, MIN_DISTORTION) else None


def eligible(layer: LayerAnalysis) -> bool:
    """Rule 1."""
    return not layer.dead and layer.influences and layer.shape[1] >= MIN_CHANNELS and gain_for(layer) is not None


def choose_paired(
    analysis: Analysis, spare: float, max_slowdown: float, reserved: Collection[str] = ()
) -> list[PairedLayer]:
    """The layers to pair, in graph order; `RULES` says how.

    Args:
        spare: cost of other nodes that count against the limit, in multiply-adds.
        max_slowdown: hardened over clean time that may be reached by rule 3; rule 2 comes first.
        reserved: layers that a compensated node may take.
    """
    fit = [layer for layer in analysis.layers if eligible(layer) and layer.name not in reserved]
    chosen: dict[str, str] = {}
    for depth in DEPTHS:
        near = [layer for layer in fit if abs(layer.depth - depth) <= REACH and layer.name not in chosen]
        why = "cheapest map near" if near else "none is left within an eighth of it: nearest map to"
        if not near:
            near = sorted(fit, key=lambda layer: abs(layer.depth - depth))[:1]
        for layer in sorted(near, key=lambda layer: (pair_cost(layer), abs(layer.depth - depth)))[:1]:
            chosen.setdefault(layer.name, f"{why} depth {depth:.2f} (it lies at {layer.depth:.2f})")
    by_name = analysis.by_name()
    spent = spare + sum(pair_cost(by_name[name]) for name in chosen)
    middle = [layer for layer in fit if DEPTHS[0] <= layer.depth <= DEPTHS[-1] and layer.name not in chosen]
    for layer in sorted(middle, key=pair_cost):
        if 1 + (spent + pair_cost(layer)) / analysis.cost > max_slowdown:
            break
        spent += pair_cost(layer)
        chosen[layer.name] = f"covers another tap of the middle third, at depth {layer.depth:.2f}"
    return [
        PairedLayer(layer.name, gain_for(layer) or MIN_GAIN, chosen[layer.name])
        for layer in analysis.layers
        if layer.name in chosen
    ]


def paired_attributes(layer: LayerAnalysis, gain: float, seed: int) -> SvdPerturbAttributes:
    """Rules 4 and 6, with a gain and a key of the layer's own."""
    key = draw_key(CHOSEN.modulation, seed, layer.name, TAIL_GROUPS * RANK * layer.shape[1])
    return SvdPerturbAttributes.model_validate(CHOSEN.model_dump() | {"gain": gain, "pattern": key})


def covered(analysis: Analysis, layers: Sequence[str]) -> tuple[int, int]:
    """How many of the taps in the middle third are among `layers`, the paired ones, and how many there are.

    A compensated map is one of the taps and not one of those that mislead: it is perturbed, but only by the gain that
    the output bears. In benchmarks/results/zoo_harden.json that moves every one by less than `MIN_DISTORTION`, which
    is the least that is asked of a pair.
    """
    taps = [layer.name for layer in analysis.layers if DEPTHS[0] <= layer.depth <= DEPTHS[-1] and eligible(layer)]
    return len(set(taps) & set(layers)), len(taps)
