"""All singular values of feature maps scaled alike."""

from __future__ import annotations

import onnx

from kdguard.graph_passes.scale_features import ScaleFeatures
from kdguard.runtime.defences.base import Defence, Strengthen, Subject


class UniformScaling(Defence):
    """In the path."""

    name = "uniform-scaling"
    source = "a baseline of arXiv 2510.08925"
    unit = "gain beyond 1"
    strengths = (1e-3, 100.0)
    of_features = True

    def prepare(self, subject: Subject) -> Strengthen:
        def strengthen(strength: float) -> onnx.ModelProto:
            return ScaleFeatures(subject.layers, 1 + strength)(subject.model).model

        return strengthen
