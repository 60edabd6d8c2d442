"""Reading a gate back, and which layers a key may switch off."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from kdguard.export.errors import UserError
from kdguard.graph_passes.insert_key_gate import InsertKeyGate
from kdguard.graph_passes.insert_svd_perturb import InsertSvdPerturb, Site
from kdguard.graph_passes.key_gate import Hint, KeyDigest, KeyGate, read_gate
from kdguard.graph_passes.key_gate.inventory import drivable_layers
from kdguard.graph_passes.key_gate.names import DIGESTS, MATRIX
from kdguard.graph_passes.op import SvdPerturbAttributes
from kdguard.graph_passes.refit_consumers import RefitConsumers, conv_readers
from tests.conftest import make_conv_net
from tests.graph_passes.key_gate.gate_models import secret

GAIN = SvdPerturbAttributes(rank=2, gain=10.0)
DIGEST = KeyDigest.of(secret(0))


def compensated() -> onnx.ModelProto:
    """b paired, d in-path with its reader's weights fitted anew."""
    model = InsertSvdPerturb(sites=[Site("b", GAIN), Site("d", GAIN, "in-path")])(make_conv_net()).model
    (reader,) = conv_readers(model, "d") or []
    return RefitConsumers({reader.output: (reader.weight * 0.9, reader.bias + 0.01)})(model).model


def gated() -> onnx.ModelProto:
    return InsertKeyGate([DIGEST], [Hint("c", 3)], seed=b"seed")(compensated()).model


def test_a_compensated_layer_is_not_for_keys() -> None:
    assert [entry.layer for entry in drivable_layers(compensated())] == ["b"]
    plain = InsertSvdPerturb(["b", "d"], GAIN, placement="in-path")(make_conv_net()).model
    assert [entry.layer for entry in drivable_layers(plain)] == ["b", "d"]


def test_a_compensated_layer_whose_reader_is_hardened_too_is_not_for_keys() -> None:
    """The reader's output goes by another name then, which its weights do not follow."""
    refitted = {
        reader.output: (reader.weight * 0.9, reader.bias) for reader in conv_readers(make_conv_net(), "d") or []
    }
    after = InsertSvdPerturb(sites=[Site("d", GAIN, "in-path"), Site("tail", GAIN)])
    for model in (after(RefitConsumers(refitted)(make_conv_net()).model).model, _refitted_after(after)):
        assert [entry.layer for entry in drivable_layers(model)] == ["tail"]


def _refitted_after(insert: InsertSvdPerturb) -> onnx.ModelProto:
    model = insert(make_conv_net()).model
    (reader,) = conv_readers(model, "d") or []
    return RefitConsumers({reader.output: (reader.weight * 0.9, reader.bias)})(model).model


def test_what_is_read_back() -> None:
    assert read_gate(compensated()) is None
    assert read_gate(gated()) == KeyGate((DIGEST,), (Hint("c", 3),), required=False, seed=b"seed", driven=("b",))
    copy = onnx.ModelProto.FromString(gated().SerializeToString())
    assert read_gate(copy) == read_gate(gated())


def test_a_damaged_gate() -> None:
    for name in (DIGESTS, MATRIX):
        model = gated()
        kept = [tensor for tensor in model.graph.initializer if tensor.name != name]
        del model.graph.initializer[:]
        model.graph.initializer.extend(kept)
        with pytest.raises(UserError, match="the model's key gate is damaged, or another version made it"):
            read_gate(model)
    model = gated()
    matrix = next(tensor for tensor in model.graph.initializer if tensor.name == MATRIX)
    values = numpy_helper.to_array(matrix).copy()
    values[5] = 0  # a bit that no longer counts
    matrix.CopyFrom(numpy_helper.from_array(values.astype(np.uint8), MATRIX))
    with pytest.raises(UserError, match="does not come from the seed that the model states"):
        read_gate(model)
