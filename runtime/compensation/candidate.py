"""A map that can be compensated, and what is known of it in closed form."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import onnx
from numpy.typing import NDArray

from kdguard.export.image_pairs import ImagePair
from kdguard.export.image_tensor import image_to_tensor
from kdguard.export.model_card import ModelCard
from kdguard.graph_passes.op import SvdPerturbAttributes
from kdguard.graph_passes.refit_consumers import ConvReader, conv_readers
from kdguard.runtime.compensation.bench import Outcome
from kdguard.runtime.compensation.statistics import Refit, RefitStatistics, top_part
from kdguard.runtime.fidelity import refuse_non_finite
from kdguard.runtime.session import RestorationSession
from kdguard.runtime.terminal import progress_bar

SCREEN_GAINS = (1.0, -0.6)
"""Excess gains at which candidates are compared before any of them is run."""
LEAST_GAIN = 0.03
DB_PER_PERCENT = 1.0
"""What one percent of the model's time has to cost a stripper."""
MAX_PATCH = 1200
"""Values that a reader sees at once, channels x kernel; the covariances grow with its square, the solution with
its cube. 128 channels of a 3x3 convolution are inside."""


@dataclass(frozen=True)
class Candidate:
    """A map whose readers are all convolutions, with the statistics of one rank.

    Attributes:
        slowdown: estimated time of the node, as a share of the model's.
    """

    layer: str
    attributes: SvdPerturbAttributes
    readers: tuple[ConvReader, ...]
    statistics: tuple[RefitStatistics, ...]
    slowdown: float = 0.0

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
    def worth(self) -> float:
        """What stripping costs, less what the node's time is worth, in dB."""
        return self.outcome.strip_db - DB_PER_PERCENT * 100 * self.candidate.slowdown

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
        return self._within(room, np.geomspace(0.95, 0.1, 24))

    def stronger(self, room: float) -> Compensation:
        """The same at the largest gain, up to three times the excess, that leaves over `room` times as much."""
        excess = self.outcome.excess
        shares = [share for share in np.geomspace(3.0, 1.05, 16) if 1 + excess * share >= LEAST_GAIN]
        return self._within(room, np.array([*shares, 1.0]))

    def _within(self, room: float, shares: NDArray[np.float64]) -> Compensation:
        allowed = room * max(refit.left_over for refit in self.refits.values())
        for share in shares:
            found = self.at(self.outcome.excess * float(share))
            if max(refit.left_over for refit in found.refits.values()) <= allowed:
                break
        return found


def is_refittable(model: onnx.ModelProto, layer: str) -> bool:
    """Whether all readers of a map are convolutions that can be given new weights, and not too large for it."""
    readers = conv_readers(model, layer)
    return bool(readers) and all(reader.weight[0].size * reader.group <= MAX_PATCH for reader in readers or ())


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
