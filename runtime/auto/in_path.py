"""In-path gains for layers that somebody named: all of them together, scanned and then refined."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import onnx

from kdguard.export.errors import GateFailedError, UserError
from kdguard.export.image_pairs import ImagePair
from kdguard.export.model_card import ModelCard
from kdguard.graph_passes.insert_svd_perturb import Site
from kdguard.graph_passes.op import SvdPerturbAttributes
from kdguard.graph_passes.probe_layers import STRENGTHS, ProbeLayers
from kdguard.runtime.analysis import Analysis
from kdguard.runtime.auto.plan import Plan
from kdguard.runtime.compensation.reserve import Reserve
from kdguard.runtime.fidelity import FidelityReport, Quality, measure_fidelity
from kdguard.runtime.remembered import RememberedSession
from kdguard.runtime.session import RestorationSession
from kdguard.runtime.terminal import progress_bar

RULES = """\
1. Every layer's excess gain is in proportion to what it can bear: the lower the output's PSNR against the clean one
   at gain 1.1, the smaller its share, so that all disturb the output alike.
2. One factor on all of them is scanned from large to small, since loss is not monotone in the gain, and refined
   between the largest that keeps the gates and its neighbour."""
MAX_EXCESS = 63.0
SCAN = tuple(np.geomspace(1.0, 1e-4, 17))
REFINEMENTS = 3
LEAST_EXCESS = 0.005
"""A gain this close to 1 protects nothing: the layers cannot be perturbed within the budget."""


class _SharedGain:
    """One model with all layers in-path, driven by a vector of strengths."""

    def __init__(
        self, model: onnx.ModelProto, card: ModelCard, shares: Mapping[str, float], attributes: SvdPerturbAttributes
    ) -> None:
        full = attributes.model_copy(update={"gain": 1 + MAX_EXCESS})
        self._shares = np.array([*shares.values()], np.float32)
        self._session = RestorationSession(ProbeLayers(dict.fromkeys(shares, full))(model).model, card)
        self.card, self.factor = card, 0.0
        self.provider, self.kernels = self._session.provider, self._session.kernels
        self.large = self._session.large

    def release(self) -> None:
        self._session.release()

    def restore(self, degraded: np.ndarray) -> np.ndarray:
        return self._session.restore(degraded, {STRENGTHS: (self.factor * self._shares).astype(np.float32)})


def shares_of(analysis: Analysis, layers: Sequence[str]) -> dict[str, float]:
    """Rule 1: the largest is 1.

    Raises:
        UserError: a layer whose share cannot be told.
    """
    by_name = analysis.by_name()
    for name in layers:
        layer = by_name.get(name)
        if layer is None or layer.dead or not layer.influences:
            why = analysis.skipped.get(name, "it is dead or without influence: any gain would do as little")
            raise UserError(f"layer {name!r} cannot be given a gain by a scan ({why}); leave it out, or give --gain")
    between = {name: by_name[name].psnr_between_db or 0.0 for name in layers}
    most = max(between.values())
    return {name: float(10 ** ((value - most) / 20)) for name, value in between.items()}


def plan_in_path(
    model: onnx.ModelProto,
    card: ModelCard,
    analysis: Analysis,
    layers: Sequence[str],
    attributes: SvdPerturbAttributes,
    check: Sequence[ImagePair],
    budget_db: float,
) -> Plan:
    """Gains for in-path nodes that keep the gates together.

    Args:
        attributes: of every node, but for the gain.
        check: images that the gates are measured on.

    Raises:
        GateFailedError: no gain that does anything keeps the gates.
    """
    shares = shares_of(analysis, layers)
    shared = _SharedGain(model, card, shares, attributes)
    clean = RememberedSession(RestorationSession(model, card))
    clean_scores: dict[str, Quality] = {}
    # The output barely bears in-path nodes as it is: of these images, no more is asked than the gates and a little.
    reserve = Reserve(budget_db, absolute=False)

    def measure(factor: float) -> FidelityReport:
        shared.factor = factor
        report, _ = measure_fidelity(clean, shared, list(check), card.task, budget_db, known=clean_scores)
        advance()
        return report

    best, failed, last = 0.0, 1.0, None
    with progress_bar("scanning in-path gains", len(SCAN) + REFINEMENTS) as advance:
        for factor in map(float, SCAN):
            last = measure(factor)
            if reserve.on_check(last) >= 1:
                best = factor
                break
            failed = factor
        for _ in range(REFINEMENTS if 0 < best < failed else 0):
            middle = float(np.sqrt(best * failed))
            best, failed = (middle, failed) if reserve.on_check(measure(middle)) >= 1 else (best, middle)
    gains = {name: round(1 + MAX_EXCESS * best * share, 4) for name, share in shares.items()}
    if max(gains.values()) - 1 < LEAST_EXCESS:
        assert last is not None
        why = "; ".join(last.failures()) or "the gates hold on these images with nothing to spare for others"
        raise GateFailedError(
            f"no in-path gain keeps the gates: at gain {1 + MAX_EXCESS * SCAN[-1]:.3f}, {why}; "
            "nothing was written. Use --placement paired or compensated, other --layers, or raise --budget-db"
        )
    sites = [Site(name, attributes.model_copy(update={"gain": gain}), "in-path") for name, gain in gains.items()]
    reasons = {name: f"gain {gain:g} from the scan" for name, gain in gains.items()}
    return Plan(sites, reasons=reasons, rules=RULES)
