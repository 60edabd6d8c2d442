"""The output rounded to few levels."""

from __future__ import annotations

import onnx

from kdguard.graph_passes.round_output import RoundOutput
from kdguard.runtime.defences.base import Defence, Strengthen, Subject


class OutputRounding(Defence):
    """The output rounded to few levels, the same for every query."""

    name = "output-rounding"
    source = "Tramer et al., USENIX Security 2016"
    unit = "distance between levels, share of the value range"
    strengths = (1 / 255, 1.0)

    def prepare(self, subject: Subject) -> Strengthen:
        def strengthen(strength: float) -> onnx.ModelProto:
            return RoundOutput(subject.card.output_name, strength * subject.white)(subject.model).model

        return strengthen
