"""A right key must not spoil what the model restores."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx
import pytest

from kdguard.export.errors import GateFailedError
from kdguard.export.image_pairs import ImagePair
from kdguard.export.model_card import ModelCard
from kdguard.graph_passes.insert_key_gate import gate_model
from kdguard.graph_passes.insert_svd_perturb import InsertSvdPerturb, Site
from kdguard.graph_passes.op import SvdPerturbAttributes
from kdguard.graph_passes.refit_consumers import RefitConsumers, conv_readers
from kdguard.runtime.box.right_key import check_gate, keyed_loss
from tests.conftest import make_conv_net, photograph
from tests.graph_passes.key_gate.gate_models import secret

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


def check(model: onnx.ModelProto, hints: dict[str, int] | None = None) -> None:
    check_gate(model, gate_model(model, [secret(0)], hints or {}), CARD)


def test_a_key_that_changes_nothing_passes() -> None:
    check(hardened())
    check(make_conv_net(), {"b": 1})


def test_a_key_that_changes_the_output_fails() -> None:
    with pytest.raises(GateFailedError, match="a right key would change the output"):
        check(spoiled())


def test_a_gate_that_changes_bits_without_a_key_fails() -> None:
    model = hardened()
    other = hardened([Site("b", GAIN), Site("d", SvdPerturbAttributes(rank=1, gain=1.001), "in-path")])
    with pytest.raises(GateFailedError, match="does not answer bit for bit as before where no key is given"):
        check_gate(model, gate_model(other, [secret(0)]), CARD)


def test_what_a_key_costs_is_measured() -> None:
    pair = ImagePair("a", CLEAN, CLEAN)
    assert abs(keyed_loss(hardened(), CARD, [pair])) < 1e-3
    assert abs(keyed_loss(spoiled(), CARD, [pair])) > 1
