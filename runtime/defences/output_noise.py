"""Gaussian noise on the output."""

from __future__ import annotations

import onnx

from kdguard.graph_passes.output_noise import OutputNoise as OutputNoisePass
from kdguard.runtime.defences.base import Defence, Strengthen, Subject


class OutputNoise(Defence):
    """Gaussian noise on the output, a fresh draw for every query; averaging over queries takes it away."""

    name = "output-noise"
    source = "folklore; see Orekondy et al., arXiv 1906.10908"
    unit = "standard deviation, share of the value range"
    strengths = (1e-4, 0.3)

    def prepare(self, subject: Subject) -> Strengthen:
        def strengthen(strength: float) -> onnx.ModelProto:
            noise = OutputNoisePass(subject.card.output_name, strength * subject.white, subject.seed)
            return noise(subject.model).model

        return strengthen
