"""The strongest setting of a defence that keeps the fidelity gates on calibration images."""

from __future__ import annotations

from dataclasses import dataclass

import onnx
from pydantic import BaseModel, Field

from kdguard.export.errors import GateFailedError
from kdguard.graph_passes.layers import find_layers
from kdguard.runtime.defences.base import Defence, Subject
from kdguard.runtime.fidelity import FidelityReport, Quality, measure_fidelity
from kdguard.runtime.remembered import RememberedSession
from kdguard.runtime.session import RestorationSession
from kdguard.runtime.terminal import progress_bar

RUNGS = 13
REFINEMENTS = 4
DEPTHS = (1 / 3, 1 / 2, 2 / 3)


class DefenceReport(BaseModel):
    """What `kdguard baseline` writes."""

    defence: str
    source: str
    strength: float = Field(description="the strongest that keeps the gates, in the unit below")
    unit: str
    at_limit: bool = Field(description="whether nothing stronger is tried: more might hold too")
    layers: list[str] = Field(description="feature maps that it changes; empty for defences of outputs and weights")
    fidelity: FidelityReport = Field(description="on the calibration images")


@dataclass(frozen=True)
class Calibrated:
    """A defended model, and what was measured."""

    model: onnx.ModelProto
    report: DefenceReport


def middle_layers(model: onnx.ModelProto) -> list[str]:
    """The feature maps a third, a half and two thirds of the way through the graph."""
    names = [layer.name for layer in find_layers(model)]
    return list(dict.fromkeys(names[int(depth * len(names))] for depth in DEPTHS)) if names else []


def calibrate(defence: Defence, subject: Subject, budget_db: float) -> Calibrated:
    """Scan from strong to weak, since loss is not monotone in the strength, then halve the last step.

    Raises:
        GateFailedError: not even the weakest setting keeps the gates.
    """
    strengthen = defence.prepare(subject)
    clean = RememberedSession(RestorationSession(subject.model, subject.card))
    known: dict[str, Quality] = {}

    def measured(strength: float) -> Calibrated:
        model = strengthen(strength)
        session = RestorationSession(model, subject.card)
        fidelity, _ = measure_fidelity(clean, session, list(subject.pairs), subject.card.task, budget_db, known=known)
        layers = list(subject.layers) if defence.of_features else []
        report = DefenceReport(
            defence=defence.name,
            source=defence.source,
            strength=strength,
            unit=defence.unit,
            at_limit=strength >= defence.strengths[1],
            layers=layers,
            fidelity=fidelity,
        )
        return Calibrated(model, report)

    held: Calibrated | None = None
    failed: float | None = None
    with progress_bar(f"calibrating {defence.name}", RUNGS + REFINEMENTS) as advance:
        for strength in defence.ladder(RUNGS):
            attempt = measured(strength)
            advance()
            if attempt.report.fidelity.within_budget:
                held = attempt
                break
            failed = strength
        if held is None:
            raise GateFailedError(
                f"{defence.name}: not even {failed:g} ({defence.unit}) keeps the gates: "
                f"{'; '.join(attempt.report.fidelity.failures())}"
            )
        for _ in range(REFINEMENTS if failed is not None else 0):
            assert failed is not None
            middle = (held.report.strength * failed) ** 0.5
            attempt = measured(middle)
            advance()
            if attempt.report.fidelity.within_budget:
                held = attempt
            else:
                failed = middle
    return held
