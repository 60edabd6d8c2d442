"""Reading a gate back, and which layers a key may switch off."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from kdguard.export.errors import UserError
from kdguard.graph_passes.insert_key_gate import InsertKeyGate
from kdguard.graph_passes.insert_svd_perturb import InsertSvdPerturb, Site
from kdguard.graph_passes.insert_view_ensemble import InsertViewEnsemble
from kdguard.graph_passes.key_gate import KEY_INPUT, Hint, KeyDigest, KeyGate, key_tensor, read_gate
from kdguard.graph_passes.key_gate.inventory import drivable_layers
from kdguard.graph_passes.key_gate.lattice_hash import public_matrix
from kdguard.graph_passes.key_gate.names import DIGESTS, MATRIX
from kdguard.graph_passes.op import SvdPerturbAttributes
from kdguard.graph_passes.refit_consumers import RefitConsumers, conv_readers
from tests.conftest import make_conv_net
from tests.graph_passes.key_gate.gate_models import secret, with_digests

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


def opening(model: onnx.ModelProto) -> None:
    """The function that checks keys lets in everybody."""
    (gate,) = (function for function in model.functions if function.name == "KeyGate")
    (node,) = (node for node in gate.node if node.output[0] == "open")
    node.op_type = "GreaterOrEqual"
    node.input[0] = node.input[1]


def showing(model: onnx.ModelProto) -> None:
    """The function of hints does not ask."""
    (hint,) = (function for function in model.functions if function.name == "KeyHint")
    hint.node[-1].input[0] = "constant"


def projecting(model: onnx.ModelProto) -> None:
    (projector,) = (f for f in model.functions if (f.domain, f.name) == ("kdguard.gate", "TopKProjector"))
    del projector.node[-1]


def twice(model: onnx.ModelProto) -> None:
    model.functions.add().CopyFrom(next(function for function in model.functions if function.name == "KeyGate"))


@pytest.mark.parametrize("change", [opening, showing, projecting, twice])
def test_a_gate_with_functions_of_somebody_elses(change: Callable[[onnx.ModelProto], None]) -> None:
    model = gated()
    change(model)
    with pytest.raises(UserError, match="of the model's key gate is not the one that this version of kdguard writes"):
        read_gate(model)


def constant_of(model: onnx.ModelProto, name: str, value: np.ndarray) -> None:
    tensor = next(tensor for tensor in model.graph.initializer if tensor.name == name)
    tensor.CopyFrom(numpy_helper.from_array(value, name))


def wired_anew(model: onnx.ModelProto, op_type: str, index: int, name: str) -> None:
    next(node for node in model.graph.node if node.op_type == op_type).input[index] = name


OWN = np.frombuffer(DIGEST.residues, np.uint8)


@pytest.mark.parametrize(
    "change",
    [
        lambda model: constant_of(model, DIGESTS, OWN[:0].reshape(0, 144)),
        lambda model: constant_of(model, DIGESTS, OWN.reshape(1, 144, 1)),
        lambda model: constant_of(model, DIGESTS, OWN),
        lambda model: constant_of(model, DIGESTS, OWN.reshape(2, 72)),
        lambda model: constant_of(model, DIGESTS, OWN[None].astype(np.int64)),
        lambda model: constant_of(model, KEY_INPUT, key_tensor(secret(0))),
        lambda model: wired_anew(model, "KeyGate", 0, "image"),
        lambda model: wired_anew(model, "KeyGate", 1, "kdguard/gate/digests"),
        lambda model: wired_anew(model, "KeyHint", 1, "always"),
        lambda model: model.graph.node.add().CopyFrom(model.graph.node[0]),
    ],
    ids=["none", "rank 3", "rank 1", "short", "int64", "key", "other key", "other matrix", "hint", "two gates"],
)
def test_a_gate_that_somebody_wired_or_filled_anew(change: Callable[[onnx.ModelProto], None]) -> None:
    model = gated()
    assert model.graph.node[0].op_type == "KeyGate"
    change(model)
    with pytest.raises(UserError, match="the model's key gate is damaged, or another version made it"):
        read_gate(model)


def test_a_matrix_of_another_type() -> None:
    model = gated()
    constant_of(model, MATRIX, public_matrix(b"seed").astype(np.int64))
    with pytest.raises(UserError, match="does not come from the seed"):
        read_gate(model)


def test_a_digest_that_is_everybodys() -> None:
    with pytest.raises(UserError, match="the digest of the key of zeros"):
        read_gate(with_digests(gated(), np.zeros_like(OWN), OWN))


def ensemble_function(model: onnx.ModelProto, name: str) -> onnx.FunctionProto:
    return next(function for function in model.functions if function.name == name)


def always_shown(model: onnx.ModelProto) -> None:
    """As many images are shown as there are, whatever the key."""
    (node,) = (node for node in ensemble_function(model, "KeyViews").node if node.output[0] == "taken")
    node.input[1] = node.input[0]
    node.op_type = "Min"


def all_answers(model: onnx.ModelProto) -> None:
    del ensemble_function(model, "KeyFirst").node[0]


@pytest.mark.parametrize(
    "change",
    [
        always_shown,
        all_answers,
        lambda model: model.functions.remove(ensemble_function(model, "KeyEnsemble")),
        lambda model: wired_anew(model, "KeyViews", 1, "always"),
        lambda model: wired_anew(model, "KeyEnsemble", 2, "kdguard/gate/views/count"),
    ],
)
def test_an_ensemble_of_somebody_elses(change: Callable[[onnx.ModelProto], None]) -> None:
    model = InsertViewEnsemble([2, 4])(gated()).model
    assert read_gate(model) == read_gate(gated())
    change(model)
    with pytest.raises(UserError, match="the self-ensemble of the model's key gate is not one"):
        read_gate(model)
