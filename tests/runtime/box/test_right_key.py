"""A right key must not spoil what the model restores."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx
import pytest

from kdguard.export.errors import GateFailedError
from kdguard.export.image_pairs import ImagePair
from kdguard.export.model_card import ModelCard
from kdguard.graph_passes.insert_svd_perturb import InsertSvdPerturb, Site
from kdguard.graph_passes.op import SvdPerturbAttributes
from kdguard.graph_passes.refit_consumers import RefitConsumers, conv_readers
from kdguard.runtime.box.right_key import check_right_key, keyed_loss
from tests.conftest import make_conv_net, photograph

CARD = ModelCard(task="denoising", input_name="image", output_name="restored")
GAIN = SvdPerturbAttributes(rank=2, gain=40.0)
CLEAN = photograph(32).astype(np.float32) / 255


def hardened(sites: Sequence[Site] = (Site("b", GAIN),)) -> onnx.ModelProto:
    return InsertSvdPerturb(sites=list(sites))(make_conv_net()).model


def spoiled() -> onnx.ModelProto:
    """A compensated layer, under a name that does not tell: a key would switch it off."""
    model = hardened([Site("d", GAIN, "in-path")])
    (reader,) = conv_readers(model, "d") or []
    model = RefitConsumers({reader.output: (reader.weight * 3, reader.bias + 0.3)})(model).model
    for tensor in model.graph.initializer:
        old, tensor.name = tensor.name, tensor.name.replace("_tail", "_renamed")
        for node in model.graph.node:
            node.input[:] = [tensor.name if name == old else name for name in node.input]
    return model


def test_a_key_that_changes_nothing_passes() -> None:
    check_right_key(hardened(), CARD)
    check_right_key(make_conv_net(), CARD)


def test_a_key_that_changes_the_output_fails() -> None:
    with pytest.raises(GateFailedError, match="a right key would change the output"):
        check_right_key(spoiled(), CARD)


def test_what_a_key_costs_is_measured() -> None:
    pair = ImagePair("a", CLEAN, CLEAN)
    assert abs(keyed_loss(hardened(), CARD, [pair])) < 1e-3
    assert abs(keyed_loss(spoiled(), CARD, [pair])) > 1
