"""Which map to perturb in-path and compensate, and by how much: from calibration images alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import onnx

from kdguard.export.image_pairs import ImagePair
from kdguard.export.image_tensor import image_to_tensor
from kdguard.export.model_card import ModelCard
from kdguard.export.tasks import Image
from kdguard.graph_passes.op import SvdPerturbAttributes
from kdguard.graph_passes.refit_consumers import ConvReader, conv_readers
from kdguard.runtime.compensation.bench import Outcome, TrialBench
from kdguard.runtime.compensation.statistics import Refit, RefitStatistics, top_part
from kdguard.runtime.fidelity import refuse_non_finite
from kdguard.runtime.session import RestorationSession
from kdguard.runtime.terminal import progress_bar

RANKS = (2, 8)
SCREEN_GAINS = (1.0, -0.6)
"""Excess gains at which candidates are compared before any of them is run."""
SCREENED, DEEPEST, REFINED = 2, 3, 3
"""Layers that are tried in the model: the best screened, and the last ones before the output, with every
rank; and how many of the trials are followed up. What a
reader near the output leaves over stays as it is; further ahead the network amplifies some of it and
heals some of what stripping does, which the screening cannot see."""
GRID = tuple(float(f"{value:.3g}") for value in (*(-np.geomspace(0.08, 0.95, 12)), *np.geomspace(0.08, 6.0, 12)))
REFINEMENTS = 4
FIRST_TRIAL = 0.35
"""Logarithm of the gain that is tried first, up or down."""
MARGIN_DB = 17.5
"""Asked of calibration images, hardened against clean over the teacher's own PSNR; the gate asks for 16."""
WORST_MARGIN_DB = 12.0
MIN_BETWEEN_DB = 56.0
"""Asked whatever the teacher's own PSNR: on images that resemble its training set more than these do, it makes
smaller errors, and what hides behind large ones here would show there."""
BUDGET_SHARE = 0.6
"""Of the budget that may be spent on calibration images; the rest is for images that are different."""
SSIM_LOSS = 0.0006
WORTHWHILE_DB = 0.3
"""A compensated node that costs a stripper less than this is not worth its time."""
DB_PER_RANK = 0.5
"""What every further singular vector has to add to be worth its time."""
MAX_PATCH = 1200
"""Values that a reader sees at once, channels x kernel; the covariances grow with its square, the solution with
its cube. 128 channels of a 3x3 convolution are inside."""
SCREEN_PATCHES, FIT_PATCHES = 1500, 4000


@dataclass(frozen=True)
class Candidate:
    """A map whose readers are all convolutions, with the statistics of one rank."""

    layer: str
    attributes: SvdPerturbAttributes
    readers: tuple[ConvReader, ...]
    statistics: tuple[RefitStatistics, ...]

    def refits(self, excess: float) -> dict[str, Refit]:
        """New weights of every reader at gain 1 + excess."""
        return {
            reader.output: statistics.refit(reader, excess)
            for reader, statistics in zip(self.readers, self.statistics, strict=True)
        }

    def ratio(self) -> float:
        """What is left over for every unit that stripping costs; the smaller the better."""
        ratios = []
        for excess in SCREEN_GAINS:
            refits = self.refits(excess).values()
            ratios.append(max(r.left_over for r in refits) / max(1e-12, min(r.stripped for r in refits)))
        return min(ratios)


@dataclass(frozen=True)
class Compensation:
    """A candidate at one gain, with its readers' new weights.

    Attributes:
        outcome: on the trial images.
    """

    candidate: Candidate
    refits: dict[str, Refit]
    outcome: Outcome

    @property
    def layer(self) -> str:
        """The perturbed map."""
        return self.candidate.layer

    @property
    def attributes(self) -> SvdPerturbAttributes:
        """Of the in-path `SvdPerturb`."""
        return self.candidate.attributes.model_copy(update={"gain": 1 + self.outcome.excess})

    def at(self, excess: float) -> Compensation:
        """The same at another gain; of the outcome, what stripping costs is estimated, the rest stays the trial's."""
        refits = self.candidate.refits(excess)
        before, after = (min(refit.stripped for refit in found.values()) for found in (self.refits, refits))
        error = (10 ** (self.outcome.strip_db / 10) - 1) * after / max(before, 1e-300)
        strip_db = 10 * float(np.log10(1 + max(error, 0.0)))
        return Compensation(self.candidate, refits, replace(self.outcome, excess=excess, strip_db=strip_db))

    def weaker(self, room: float) -> Compensation:
        """The same at the gain closest to this one whose left-over energy is at most `room` times as large."""
        allowed = room * max(refit.left_over for refit in self.refits.values())
        for share in np.geomspace(0.95, 0.1, 24):
            found = self.at(self.outcome.excess * float(share))
            if max(refit.left_over for refit in found.refits.values()) <= allowed:
                break
        return found


@dataclass(frozen=True)
class Found:
    """What a search found.

    Attributes:
        kept: the best of each scan that keeps its distance from every gate, the one that costs a stripper most
            first.
        closest: where none is kept, the trial that came closest to the gates; None where nothing was tried.
    """

    kept: list[Compensation]
    closest: Compensation | None = None


def gather(
    model: onnx.ModelProto,
    card: ModelCard,
    layers: Mapping[str, Sequence[SvdPerturbAttributes]],
    pairs: Sequence[ImagePair],
    patches: int,
    title: str,
) -> list[Candidate]:
    """Statistics of several layers, each with several attributes, in one pass over the images.

    Args:
        patches: at most this many per image, drawn at random.
    """
    candidates = []
    for layer, variants in layers.items():
        readers = conv_readers(model, layer)
        assert readers is not None
        for attributes in variants:
            by_geometry = {reader.geometry: RefitStatistics(reader) for reader in readers}
            statistics = tuple(by_geometry[reader.geometry] for reader in readers)
            candidates.append(Candidate(layer, attributes, tuple(readers), statistics))
    session = RestorationSession(model, card, taps=list(layers))
    with progress_bar(title, len(pairs)) as advance:
        for pair in pairs:
            maps = dict(zip(layers, session.run(image_to_tensor(pair.degraded, card))[1:], strict=True))
            for candidate in candidates:
                F = maps[candidate.layer][0]
                refuse_non_finite(pair, F)
                top = top_part(F, candidate.attributes)
                for shared in {id(entry): entry for entry in candidate.statistics}.values():
                    shared.add(F, top, patches)
            advance()
    return candidates


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


def acceptable(outcome: Outcome, budget_db: float) -> bool:
    """Whether a gain keeps a distance from every gate."""
    return (
        outcome.margin_db >= MARGIN_DB
        and outcome.worst_margin_db >= WORST_MARGIN_DB
        and outcome.between_db >= MIN_BETWEEN_DB
        and outcome.loss_db <= BUDGET_SHARE * budget_db
        and outcome.ssim_loss <= SSIM_LOSS
    )


def _room(outcome: Outcome, budget_db: float) -> float:
    """By what factor the error energy may grow before the first gate is reached."""
    slack = min(
        outcome.margin_db - MARGIN_DB,
        outcome.worst_margin_db - WORST_MARGIN_DB,
        outcome.between_db - MIN_BETWEEN_DB,
    )
    loss = BUDGET_SHARE * budget_db / outcome.loss_db if outcome.loss_db > 0 else np.inf
    ssim_loss = SSIM_LOSS / outcome.ssim_loss if outcome.ssim_loss > 0 else np.inf
    return min(10 ** (slack / 10), loss, ssim_loss)


class Scan:
    """Scan, then refine, the gain of one candidate in one direction.

    What the refit leaves over at a gain is known in closed form; what it does to the output follows
    from one run and the ratio of the two. So every run calibrates, and the next one is spent where
    the prediction puts the edge of what is acceptable.
    """

    def __init__(self, candidate: Candidate, *, amplify: bool) -> None:
        self.candidate = candidate
        self._amplify = amplify
        grid = [excess for excess in GRID if (excess > 0) == amplify]
        self._refits = {excess: candidate.refits(excess) for excess in grid}
        self._left_over = {e: max(r.left_over for r in refits.values()) for e, refits in self._refits.items()}
        self._stripped = {e: min(r.stripped for r in refits.values()) for e, refits in self._refits.items()}
        self._next: float | None = min(grid, key=lambda e: abs(abs(np.log1p(e)) - FIRST_TRIAL))
        self.tried: dict[float, Outcome] = {}
        self.promise = np.inf

    def bench(self, model: onnx.ModelProto, card: ModelCard) -> TrialBench:
        """What `step` runs on. Not kept here: every session holds as much memory as it ever needed."""
        candidate = self.candidate
        return TrialBench(model, card, candidate.layer, candidate.attributes, candidate.readers, amplify=self._amplify)

    def step(self, bench: TrialBench, pairs: Sequence[ImagePair], clean: Sequence[Image], budget_db: float) -> None:
        """Try the next gain, if there is one."""
        if self._next is None:
            return
        excess = self._next
        outcome = bench.try_gain(excess, self._refits[excess], pairs, clean)
        self.tried[excess] = outcome
        allowed = self._left_over[excess] * _room(outcome, budget_db)
        inside = [e for e in self._left_over if self._left_over[e] <= allowed and e not in self.tried]
        if not acceptable(outcome, budget_db):
            inside = [e for e in inside if abs(np.log1p(e)) < abs(np.log1p(excess))]
        self._next = max(inside, key=lambda e: abs(np.log1p(e)), default=None)
        error = max(10 ** (outcome.strip_db / 10) - 1, 1e-6)
        grown = self._stripped[self._next] / max(self._stripped[excess], 1e-300) if self._next is not None else 0.0
        known = max((o.strip_db for o in self.acceptable(budget_db)), default=0.0)
        self.promise = max(known, 10 * float(np.log10(1 + error * grown)))

    def acceptable(self, budget_db: float) -> list[Outcome]:
        """The trials that kept their distance from every gate."""
        return [outcome for outcome in self.tried.values() if acceptable(outcome, budget_db)]

    def closest(self, budget_db: float) -> Compensation:
        """The trial with the most room, which may be less than none."""
        outcome = max(self.tried.values(), key=lambda outcome: _room(outcome, budget_db))
        return Compensation(self.candidate, self._refits[outcome.excess], outcome)

    def best(self, budget_db: float) -> Compensation | None:
        """The acceptable trial that costs a stripper most."""
        outcome = max(self.acceptable(budget_db), key=lambda outcome: outcome.strip_db, default=None)
        if outcome is None or outcome.strip_db < WORTHWHILE_DB:
            return None
        return Compensation(self.candidate, self._refits[outcome.excess], outcome)


def is_refittable(model: onnx.ModelProto, layer: str) -> bool:
    """Whether all readers of a map are convolutions that can be given new weights, and not too large for it."""
    readers = conv_readers(model, layer)
    return bool(readers) and all(reader.weight[0].size * reader.group <= MAX_PATCH for reader in readers or ())


def search(
    model: onnx.ModelProto,
    card: ModelCard,
    layers: Sequence[str],
    fit: Sequence[ImagePair],
    trial: Sequence[ImagePair],
    budget_db: float,
) -> Found:
    """Conv-only maps, each at the best gain that keeps every gate.

    Args:
        layers: maps that are alive and influence the output, in graph order; those with other
            readers are passed over.
        fit: images for the statistics.
        trial: other images, for scanning gains.
    """
    possible = [layer for layer in layers if is_refittable(model, layer)]
    if not possible:
        return Found([])
    finalists = screen(model, card, possible, fit[:: max(1, len(fit) // 4)][:4])
    variants = [SvdPerturbAttributes(rank=rank) for rank in RANKS]
    candidates = gather(model, card, dict.fromkeys(finalists, variants), fit, FIT_PATCHES, "fitting readers")
    session = RestorationSession(model, card)
    clean = [session.restore(pair.degraded) for pair in trial]
    for pair, output in zip(trial, clean, strict=True):
        refuse_non_finite(pair, output)
    scans = []
    with progress_bar("scanning gains", 2 * len(candidates) + REFINED * REFINEMENTS) as advance:
        for candidate in candidates:
            for amplify in (False, True):
                scan = Scan(candidate, amplify=amplify)
                scan.step(scan.bench(model, card), trial, clean, budget_db)
                scans.append(scan)
                advance()
        scans.sort(key=lambda scan: -scan.promise)
        for scan in scans[:REFINED]:
            bench = scan.bench(model, card)
            for _ in range(REFINEMENTS):
                scan.step(bench, trial, clean, budget_db)
                advance()
    found = [best for scan in scans if (best := scan.best(budget_db))]
    if not found:
        return Found([], max((s.closest(budget_db) for s in scans), key=lambda tried: _room(tried.outcome, budget_db)))
    return Found(sorted(found, key=lambda best: best.candidate.attributes.rank * DB_PER_RANK - best.outcome.strip_db))
