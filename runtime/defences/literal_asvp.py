"""ASVP to the letter: the top k singular values of feature maps times one fixed gain, in the path."""

from __future__ import annotations

import onnx

from kdguard.graph_passes.insert_svd_perturb import InsertSvdPerturb, Site
from kdguard.graph_passes.op import SvdPerturbAttributes
from kdguard.runtime.defences.base import Defence, Strengthen, Subject

RANK = 4


class LiteralAsvp(Defence):
    """The four largest singular values times one gain, at every layer and image the same, in the path."""

    name = "literal-asvp"
    source = "arXiv 2510.08925"
    unit = "gain beyond 1"
    strengths = (1e-3, 100.0)
    of_features = True

    def prepare(self, subject: Subject) -> Strengthen:
        def strengthen(strength: float) -> onnx.ModelProto:
            attributes = SvdPerturbAttributes(rank=RANK, gain=1 + strength)
            sites = [Site(layer, attributes, "in-path") for layer in subject.layers]
            return InsertSvdPerturb(sites=sites)(subject.model).model

        return strengthen
