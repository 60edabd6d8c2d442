"""Gaussian noise on feature maps."""

from __future__ import annotations

import onnx

from kdguard.graph_passes.feature_noise import FeatureNoise as FeatureNoisePass
from kdguard.runtime.defences.base import Defence, Strengthen, Subject


class FeatureNoise(Defence):
    """Gaussian noise on feature maps, in the path, a fresh draw for every query."""

    name = "feature-noise"
    source = "folklore"
    unit = "standard deviation, share of the map's root mean square"
    strengths = (1e-4, 10.0)
    of_features = True

    def prepare(self, subject: Subject) -> Strengthen:
        def strengthen(strength: float) -> onnx.ModelProto:
            return FeatureNoisePass(subject.layers, strength, subject.seed)(subject.model).model

        return strengthen
