"""All singular values of feature maps scaled alike."""

from __future__ import annotations

import onnx

from kdguard.graph_passes.scale_features import ScaleFeatures
from kdguard.runtime.defences.base import Defence, Strengthen, Subject


class UniformScaling(Defence):
    """All singular values of feature maps times the same gain, in the path; that is the map times the gain."""

    name = "uniform-scaling"
    source = "the plain alternative to arXiv 2510.08925, which amplifies the largest only"
    unit = "gain beyond 1"
    strengths = (1e-3, 100.0)
    of_features = True

    def prepare(self, subject: Subject) -> Strengthen:
        def strengthen(strength: float) -> onnx.ModelProto:
            return ScaleFeatures(subject.layers, 1 + strength)(subject.model).model

        return strengthen
