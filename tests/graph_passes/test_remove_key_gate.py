"""The gate taken out: by its owner, or by anybody who has the file."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx
import pytest

from kdguard.graph_passes.insert_key_gate import gate_model
from kdguard.graph_passes.insert_svd_perturb import STRENGTH
from kdguard.graph_passes.key_gate import KEY_INPUT, read_gate
from kdguard.graph_passes.key_gate.names import STRENGTH_OUT
from kdguard.graph_passes.remove_key_gate import RemoveKeyGate
from kdguard.graph_passes.strip_nodes import StripNodes
from tests.conftest import make_conv_net, run_onnx
from tests.graph_passes.key_gate.test_inventory import compensated
from tests.graph_passes.rich_model import make_rich_model
from tests.graph_passes.test_insert_key_gate import HOLDERS, IMAGE, RIGHT, half, harden


@pytest.mark.parametrize("build", [make_rich_model, half])
@pytest.mark.parametrize("required", [False, True])
def test_what_was_inserted_is_gone_byte_for_byte(build: Callable[[], onnx.ModelProto], required: bool) -> None:
    clean = build()
    hardened = harden(clean)
    gated = gate_model(hardened, HOLDERS, ["b", "c"], required=required)
    before = gated.SerializeToString(deterministic=True)
    result = RemoveKeyGate()(gated)
    assert result.modified
    assert gated.SerializeToString(deterministic=True) == before
    assert result.model.SerializeToString(deterministic=True) == hardened.SerializeToString(deterministic=True)
    stripped = StripNodes()(gated).model
    assert stripped.SerializeToString(deterministic=True) == clean.SerializeToString(deterministic=True)


def test_compensated_and_clean_models() -> None:
    for model in (compensated(), make_conv_net()):
        gated = gate_model(model, HOLDERS, ["c"])
        assert RemoveKeyGate()(gated).model == model
        assert not StripNodes()(StripNodes()(gated).model).modified
    assert STRENGTH not in {tensor.name for tensor in RemoveKeyGate()(gated).model.graph.initializer}


@pytest.mark.parametrize("build", [make_conv_net, make_rich_model])
def test_a_model_without_one_is_handed_back(build: Callable[[], onnx.ModelProto]) -> None:
    model = harden(build())
    result = RemoveKeyGate()(model)
    assert not result.modified
    assert result.model is model


def test_whoever_can_edit_the_graph_opens_it() -> None:
    """What docs/key-gate.md says plainly: one constant in place of the gate, and no key is needed."""
    gated = gate_model(harden(make_conv_net(), "in-path"), HOLDERS)
    forced = RemoveKeyGate()(gated).model
    strength = next(tensor for tensor in forced.graph.initializer if tensor.name == STRENGTH)
    strength.CopyFrom(onnx.numpy_helper.from_array(np.array(0, np.float32), STRENGTH))
    assert read_gate(forced) is None
    assert STRENGTH_OUT not in {name for node in forced.graph.node for name in node.input}
    assert np.array_equal(run_onnx(forced, image=IMAGE)[0], run_onnx(gated, image=IMAGE, **{KEY_INPUT: RIGHT})[0])
