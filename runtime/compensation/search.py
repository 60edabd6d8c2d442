"""Which map to perturb in-path and compensate, and by how much: from calibration images alone."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import onnx

from kdguard.export.image_pairs import ImagePair
from kdguard.export.model_card import ModelCard
from kdguard.graph_passes.op import SvdPerturbAttributes
from kdguard.runtime.compensation.bench import Baseline
from kdguard.runtime.compensation.candidate import Compensation, gather, is_refittable
from kdguard.runtime.compensation.reserve import Reserve
from kdguard.runtime.compensation.scan import Scan
from kdguard.runtime.fidelity import refuse_non_finite
from kdguard.runtime.session import RestorationSession
from kdguard.runtime.terminal import progress_bar

RANKS = (2, 8)
SCREENED, DEEPEST, REFINED = 2, 3, 3
"""Layers that are tried in the model: the best screened, and the last ones before the output, with every
rank; and how many of the trials are followed up. What a
reader near the output leaves over stays as it is; further ahead the network amplifies some of it and
heals some of what stripping does, which the screening cannot see."""
REFINEMENTS = 3
SCREEN_PATCHES, FIT_PATCHES = 1500, 4000


@dataclass(frozen=True)
class Found:
    """What a search found.

    Attributes:
        kept: the best of each scan that keeps its distance from every gate, the one of most worth first.
        closest: where none is kept, the trial that came closest to the gates; None where nothing was tried.
    """

    kept: list[Compensation]
    closest: Compensation | None = None


def screen(model: onnx.ModelProto, card: ModelCard, layers: Sequence[str], pairs: Sequence[ImagePair]) -> list[str]:
    """The layers worth trying.

    Args:
        layers: in graph order.
    """
    if len(layers) <= SCREENED + DEEPEST:
        return list(layers)
    variants = [SvdPerturbAttributes(rank=RANKS[0])]
    candidates = gather(
        model, card, dict.fromkeys(layers, variants), pairs, SCREEN_PATCHES, "screening maps to compensate"
    )
    ranked = sorted(candidates, key=lambda candidate: (candidate.ratio(), candidate.layer))
    return list(dict.fromkeys((*layers[-DEEPEST:], *(candidate.layer for candidate in ranked[:SCREENED]))))


def search(
    model: onnx.ModelProto,
    card: ModelCard,
    layers: Sequence[str],
    fit: Sequence[ImagePair],
    trial: Sequence[ImagePair],
    reserve: Reserve,
    slowdown: Callable[[str, SvdPerturbAttributes], float] = lambda layer, attributes: 0.0,
) -> Found:
    """Conv-only maps, each at the best gain that keeps every gate.

    Args:
        layers: maps that are alive and influence the output, in graph order; those with other
            readers are passed over.
        fit: images for the statistics.
        trial: other images, for scanning gains.
        slowdown: estimated time of a node on a layer, as a share of the model's.
    """
    possible = [layer for layer in layers if is_refittable(model, layer)]
    if not possible:
        return Found([])
    finalists = screen(model, card, possible, fit[:: max(1, len(fit) // 4)][:4])
    variants = [SvdPerturbAttributes(rank=rank) for rank in RANKS]
    candidates = [
        replace(candidate, slowdown=slowdown(candidate.layer, candidate.attributes))
        for candidate in gather(model, card, dict.fromkeys(finalists, variants), fit, FIT_PATCHES, "fitting readers")
    ]
    session = RestorationSession(model, card)
    clean = []
    for pair in trial:
        output = session.restore(pair.degraded)
        refuse_non_finite(pair, output)
        clean.append(Baseline.of(output, pair, card))
    scans = []
    with progress_bar("scanning gains", 2 * len(candidates) + REFINED * REFINEMENTS) as advance:
        for candidate in candidates:
            for amplify in (False, True):
                scan = Scan(candidate, reserve, amplify=amplify)
                scan.step(scan.bench(model, card), trial, clean)
                scans.append(scan)
                advance()
        # By what stripping may cost alone, without the price of the time that `worth` takes off at the end: time ranks
        # candidates, it excludes none, and a promise extrapolates from one run and may be near zero.
        scans.sort(key=lambda scan: -scan.promise)
        for scan in scans[:REFINED]:
            bench = scan.bench(model, card)
            for _ in range(REFINEMENTS):
                scan.step(bench, trial, clean)
                advance()
    found = [best for scan in scans if (best := scan.best())]
    if not found:
        closest = (scan.closest() for scan in scans)
        return Found([], max(closest, key=lambda tried: reserve.on_trial(tried.outcome)))
    return Found(sorted(found, key=lambda best: -best.worth))
