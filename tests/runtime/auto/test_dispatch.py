"""Gains of layers that the user names, for the attributes that are inserted there."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from kdguard.export.errors import UserError
from kdguard.export.model_card import ModelCard
from kdguard.graph_passes.op import SvdPerturbAttributes
from kdguard.runtime.auto.dispatch import make_plan
from kdguard.runtime.auto.options import HardenOptions
from kdguard.runtime.auto.paired import MAX_GAIN, MIN_GAIN, TARGET_DISTORTION
from kdguard.runtime.distortion import feature_distortion
from tests.conftest import make_conv_net
from tests.runtime.image_pairs import noisy_pairs

STEP = (MAX_GAIN / MIN_GAIN) ** 0.1
"""Between one gain that is tried and the next."""


def steady_net(level: float) -> onnx.ModelProto:
    """The small network with a map `b` that varies little around its channel means."""
    model = make_conv_net()
    model.graph.initializer.append(numpy_helper.from_array(np.full(8, level, np.float32), "ba"))
    model.graph.node[0].input.append("ba")
    return model


@pytest.mark.parametrize(
    "given",
    [None, SvdPerturbAttributes(rank=1, centred=True), SvdPerturbAttributes(rank=2, centred=True, adaptive=1.0)],
)
def test_the_gain_is_the_smallest_for_what_is_inserted(card: ModelCard, given: SvdPerturbAttributes | None) -> None:
    model, pairs = steady_net(5.0), noisy_pairs(4)
    plan = make_plan(model, card, pairs, HardenOptions(["b"], attributes=given)).plan
    (site,) = plan.sites
    if given:
        assert site.attributes == given.model_copy(update={"gain": site.attributes.gain})
    assert MIN_GAIN < site.attributes.gain < MAX_GAIN
    moved = feature_distortion(model, plan.apply(model), card, ["b"], pairs)["b"]
    assert TARGET_DISTORTION * 0.99 < moved < TARGET_DISTORTION * STEP * 1.01


def test_a_map_that_only_its_mean_makes_large_needs_no_gain_beyond_the_least(card: ModelCard) -> None:
    """Plain ASVP amplifies the mean; what varies around it is too little for the centred attributes of rule 4."""
    model, pairs = steady_net(20.0), noisy_pairs(4)
    plain = HardenOptions(["b"], attributes=SvdPerturbAttributes(rank=4))
    plan = make_plan(model, card, pairs, plain).plan
    assert plan.sites[0].attributes.gain == MIN_GAIN
    moved = feature_distortion(model, plan.apply(model), card, ["b"], pairs)["b"]
    assert moved == pytest.approx(MIN_GAIN - 1, rel=0.01)
    with pytest.raises(UserError, match=r"layer 'b' .*not even gain 100 is expected to move it.* or give --gain"):
        make_plan(model, card, pairs, HardenOptions(["b"]))
