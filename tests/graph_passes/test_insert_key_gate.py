"""Without a key nothing changes, with a right one the clean path and the hints come out."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, numpy_helper

from kdguard.export.errors import UserError
from kdguard.export.model_card import NO_KEY
from kdguard.graph_passes.insert_key_gate import InsertKeyGate, gate_model, with_required_key
from kdguard.graph_passes.insert_svd_perturb import STRENGTH, InsertSvdPerturb
from kdguard.graph_passes.inventory import hardened_layers
from kdguard.graph_passes.key_gate import (
    HINT_PREFIX,
    KEY_BITS,
    KEY_INPUT,
    Hint,
    KeyDigest,
    key_tensor,
    read_gate,
)
from kdguard.graph_passes.layers import find_layers
from kdguard.graph_passes.op import SvdPerturbAttributes
from kdguard.graph_passes.pass_base import PreconditionError, full_check_problem
from tests.conftest import make_conv_net, photograph, run_onnx
from tests.graph_passes.key_gate.gate_models import secret
from tests.graph_passes.key_gate.test_inventory import compensated
from tests.graph_passes.rich_model import make_rich_model

GAIN = SvdPerturbAttributes(rank=2, gain=10.0)
IMAGE = (photograph(40).transpose(2, 0, 1)[None] / 255).astype(np.float32)
HOLDERS = [secret(0), secret(1)]
DIGESTS = [KeyDigest.of(holder) for holder in HOLDERS]
RIGHT, WRONG = key_tensor(HOLDERS[1]), key_tensor(secret(9))
NO_KEYS = [np.full(KEY_BITS, value, np.float32) for value in (0.0, NO_KEY)]


def half() -> onnx.ModelProto:
    return make_conv_net(dtype=TensorProto.FLOAT16)


def harden(model: onnx.ModelProto, placement: str = "paired") -> onnx.ModelProto:
    return InsertSvdPerturb(["b", "d"], GAIN, placement=placement)(model).model  # type: ignore[arg-type]


def image_for(model: onnx.ModelProto) -> np.ndarray:
    half = model.graph.input[0].type.tensor_type.elem_type == TensorProto.FLOAT16
    return IMAGE.astype(np.float16 if half else np.float32)


class Running:
    """One session, asked several times."""

    def __init__(self, model: onnx.ModelProto) -> None:
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 4
        self._session = onnxruntime.InferenceSession(
            model.SerializeToString(), options, providers=["CPUExecutionProvider"]
        )

    def __call__(self, image: np.ndarray, key: np.ndarray | None = None) -> list[np.ndarray]:
        return self._session.run(None, {"image": image} | ({} if key is None else {KEY_INPUT: key}))


def hint_of(F: np.ndarray, rank: int) -> np.ndarray:
    """V = U^T F, signs as in the graph."""
    flat = F.reshape(*F.shape[:2], -1).astype(np.float64)
    U = np.linalg.svd(flat, full_matrices=False)[0][:, :, :rank]
    U = U * np.where((U**3).sum(axis=1, keepdims=True) < 0, -1, 1)
    return np.einsum("nck,ncp->nkp", U, flat).reshape(len(F), rank, *F.shape[2:])


@pytest.mark.parametrize("build", [make_conv_net, make_rich_model, half])
@pytest.mark.parametrize("placement", ["paired", "in-path"])
def test_without_key_and_with_it(build: Callable[[], onnx.ModelProto], placement: str) -> None:
    clean = build()
    hardened = harden(clean, placement)
    before = hardened.SerializeToString(deterministic=True)
    result = InsertKeyGate(DIGESTS, [Hint("c")])(hardened)
    assert result.modified
    assert hardened.SerializeToString(deterministic=True) == before
    assert full_check_problem(result.model) is None
    image = image_for(clean)
    (shut,) = run_onnx(hardened, image=image)
    gated = Running(result.model)
    for wrong in (None, WRONG, RIGHT[:-1], np.full(3, np.nan, np.float32)):
        restored, hint = gated(image, wrong)
        assert np.array_equal(restored, shut)
        assert hint.shape == (0, 4, 40, 40)
    restored, hint = gated(image, RIGHT)
    # onnxruntime's CPU provider drops roundings between fp16 nodes, and an inserted node brings one back.
    tolerance = 1e-3 if image.dtype == np.float16 else 0.0
    np.testing.assert_allclose(restored.astype(np.float64), run_onnx(clean, image=image)[0], atol=tolerance, rtol=0)
    assert hint.shape == (1, 4, 40, 40)
    assert np.isfinite(hint).all()


def test_a_strength_of_its_own_is_kept_without_a_key() -> None:
    """Whoever stored less than 1 in the hardened model gets that, and a key still switches it off."""
    hardened = harden(make_conv_net(), "in-path")
    (strength,) = (tensor for tensor in hardened.graph.initializer if tensor.name == STRENGTH)
    full = run_onnx(hardened, image=IMAGE)[0]
    strength.CopyFrom(numpy_helper.from_array(np.array(0.25, np.float32), STRENGTH))
    running, (shut,) = Running(InsertKeyGate(DIGESTS)(hardened).model), run_onnx(hardened, image=IMAGE)
    assert not np.array_equal(shut, full)
    for wrong in (None, WRONG):
        assert np.array_equal(running(IMAGE, wrong)[0], shut)
    assert np.array_equal(running(IMAGE, RIGHT)[0], run_onnx(make_conv_net(), image=IMAGE)[0])


@pytest.mark.parametrize("opset", [15, 18, 20, 23])
def test_opsets(opset: int) -> None:
    hardened = harden(make_conv_net(opset=opset))
    gated = InsertKeyGate(DIGESTS, [Hint("b", 2)])(hardened).model
    running = Running(gated)
    assert np.array_equal(running(IMAGE)[0], run_onnx(hardened, image=IMAGE)[0])
    assert running(IMAGE, RIGHT)[1].shape == (1, 2, 40, 40)


@pytest.mark.parametrize("layer", ["b", "c", "d"])
@pytest.mark.parametrize("required", [False, True])
def test_a_hint_shows_the_clean_map(layer: str, required: bool) -> None:
    """Of hardened layers too, whose public name carries the perturbed one."""
    clean = make_conv_net()
    gated = InsertKeyGate(DIGESTS, [Hint(layer, 3)], required=required)(harden(clean, "in-path")).model
    tapped = onnx.ModelProto()
    tapped.CopyFrom(clean)
    tapped.graph.output.append(onnx.ValueInfoProto(name=layer))
    image = np.concatenate([IMAGE, IMAGE[:, ::-1, ::-1] ** 2])
    F = run_onnx(tapped, image=image)[1]
    hint = run_onnx(gated, image=image, **{KEY_INPUT: RIGHT})[1]
    np.testing.assert_allclose(hint, hint_of(F, 3), atol=2e-4 * np.abs(F).max())
    assert hint.dtype == np.float32


def test_a_required_key() -> None:
    hardened = harden(make_conv_net())
    gated = InsertKeyGate(DIGESTS, [Hint("c")], required=True)(hardened).model
    key = gated.graph.input[1]
    assert (key.name, [side.dim_value for side in key.type.tensor_type.shape.dim]) == (KEY_INPUT, [KEY_BITS])
    running, (shut,) = Running(gated), run_onnx(hardened, image=IMAGE)
    for wrong in (*NO_KEYS, WRONG):
        restored, hint = running(IMAGE, wrong)
        assert np.array_equal(restored, shut)
        assert hint.shape == (1, 4, 40, 40)
        assert not hint.any()
    assert running(IMAGE, RIGHT)[1].any()
    optional = InsertKeyGate(DIGESTS, [Hint("c")])(hardened).model
    assert with_required_key(optional) == gated
    assert with_required_key(gated) is gated
    assert with_required_key(hardened) is hardened


def test_a_shut_gate_hides_what_is_no_number() -> None:
    gated = InsertKeyGate(DIGESTS, [Hint("c")], required=True)(harden(make_conv_net())).model
    image = IMAGE.copy()
    image[0, 0, 3, 3] = np.nan
    assert not run_onnx(gated, image=image, **{KEY_INPUT: NO_KEYS[1]})[1].any()


def test_compensated_layers_stay_on() -> None:
    """Their readers were fitted to the perturbed map, so the key holder gets the output that everybody gets."""
    hardened = compensated()
    gated = gate_model(hardened, HOLDERS, ["d"])
    assert read_gate(gated).driven == ("b",)  # type: ignore[union-attr]
    everybody = run_onnx(hardened, image=IMAGE)[0]
    running = Running(gated)
    assert np.array_equal(running(IMAGE)[0], everybody)
    restored, hint = running(IMAGE, RIGHT)
    np.testing.assert_allclose(restored, everybody, atol=1e-5)
    clean = make_conv_net()
    clean.graph.output.append(onnx.ValueInfoProto(name="d"))
    np.testing.assert_allclose(hint, hint_of(run_onnx(clean, image=IMAGE)[1], 4), atol=1e-3)


@pytest.mark.parametrize("build", [make_conv_net, make_rich_model])
def test_twice_is_once(build: Callable[[], onnx.ModelProto]) -> None:
    insert = InsertKeyGate(DIGESTS, [Hint("c")])
    once = insert(harden(build())).model
    again = insert(once)
    assert not again.modified
    assert again.model is once
    assert not InsertKeyGate([*DIGESTS[::-1], DIGESTS[0]], [Hint("c")])(once).modified
    for other in (
        InsertKeyGate(DIGESTS[:1], [Hint("c")]),
        InsertKeyGate(DIGESTS),
        InsertKeyGate(DIGESTS, [Hint("c", 3)]),
        InsertKeyGate(DIGESTS, [Hint("c")], required=True),
        InsertKeyGate(DIGESTS, [Hint("c")], seed=b"other"),
    ):
        with pytest.raises(PreconditionError, match="already has another key gate"):
            other(once)


def test_what_is_kept_of_a_rich_model() -> None:
    model = harden(make_rich_model())
    gated = gate_model(model, HOLDERS, ["c"])
    assert [entry.key for entry in gated.metadata_props][:1] == ["licence"]
    assert gated.graph.metadata_props == model.graph.metadata_props
    assert [value.name for value in gated.graph.input] == ["image", "sharpness", KEY_INPUT]
    assert [value.name for value in gated.graph.output] == ["restored", f"{HINT_PREFIX}c"]
    assert hardened_layers(gated) == hardened_layers(model)
    assert find_layers(gated)[0] == find_layers(model)[0]
    assert InsertSvdPerturb(["b", "d"], GAIN)(gated).modified is False


def test_revocation_is_leaving_a_digest_out() -> None:
    hardened = harden(make_conv_net())
    first, second = (Running(gate_model(hardened, holders, ["c"])) for holders in (HOLDERS, HOLDERS[:1]))
    assert len(first(IMAGE, RIGHT)[1]) == 1
    assert len(second(IMAGE, RIGHT)[1]) == 0
    assert len(second(IMAGE, key_tensor(HOLDERS[0]))[1]) == 1


def test_holders_may_send_digests() -> None:
    hardened = harden(make_conv_net())
    assert gate_model(hardened, DIGESTS, {"c": 3, "b*": 2}) == gate_model(hardened, HOLDERS, {"b*": 2, "c": 3})
    own = gate_model(hardened, HOLDERS, seed=b"release 2")
    assert gate_model(hardened, [KeyDigest.of(h, b"release 2") for h in HOLDERS], seed=b"release 2") == own
    opened = Running(own)(IMAGE, RIGHT)[0]
    assert np.array_equal(opened, run_onnx(make_conv_net(), image=IMAGE)[0])
    with pytest.raises(UserError, match="'x' matches none of the"):
        gate_model(hardened, HOLDERS, ["x"])


def test_it_adds_little() -> None:
    hardened = harden(make_conv_net())
    gated = gate_model(hardened, [secret(number) for number in range(64)], ["b", "c", "d"])
    assert gated.ByteSize() - hardened.ByteSize() < 300_000


def clashing() -> onnx.ModelProto:
    model = make_conv_net()
    model.graph.node[0].output[0] = model.graph.node[1].input[0] = KEY_INPUT
    return model


def with_metadata() -> onnx.ModelProto:
    model = harden(make_conv_net())
    model.metadata_props.add(key="kdguard.key_gate", value="00")
    return model


def with_node_name() -> onnx.ModelProto:
    model = harden(make_conv_net())
    model.graph.node[0].name = "kdguard/gate/KeyGate"
    return model


@pytest.mark.parametrize(
    ("model", "insert", "message"),
    [
        (make_conv_net(), InsertKeyGate(DIGESTS), "there is nothing for a key to open"),
        (harden(make_conv_net()), InsertKeyGate([]), "1 to 64 key holders, and 0 were given"),
        (harden(make_conv_net()), InsertKeyGate(DIGESTS, [Hint("image")]), "'image': it is an input of the model"),
        (harden(make_conv_net()), InsertKeyGate(DIGESTS, [Hint("none")]), "'none': it is no feature map"),
        (harden(make_conv_net()), InsertKeyGate(DIGESTS, [Hint("b", 17)]), "rank 17 is not one of 1 to 16"),
        (harden(make_conv_net()), InsertKeyGate(DIGESTS, [Hint("b", True)]), "rank True is not one of 1 to 16"),
        (harden(make_conv_net()), InsertKeyGate(DIGESTS, [Hint("b", 2.0)]), "rank 2.0 is not one of 1 to 16"),  # type: ignore[arg-type]
        (with_metadata(), InsertKeyGate(DIGESTS, [Hint("b")]), "metadata 'kdguard.key_gate' and no key gate"),
        (with_node_name(), InsertKeyGate(DIGESTS, [Hint("b")]), "a node's name starts with 'kdguard/gate/'"),
        (harden(make_conv_net()), InsertKeyGate(DIGESTS, [Hint("b"), Hint("b", 2)]), "named twice among the hints"),
        (clashing(), InsertKeyGate(DIGESTS, [Hint("b")]), "tensor 'kdguard_key' has a name that the key gate keeps"),
        (make_conv_net(opset=14), InsertKeyGate(DIGESTS, [Hint("b")]), "opset 14 and the gate needs 15"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_refusals(model: onnx.ModelProto, insert: InsertKeyGate, message: str) -> None:
    with pytest.raises(PreconditionError, match=message):
        insert(model)


def test_hints_alone() -> None:
    """A clean teacher behind an API may have a gate for its hints."""
    clean = make_conv_net()
    gated = gate_model(clean, HOLDERS, ["d"])
    assert np.array_equal(run_onnx(gated, image=IMAGE)[0], run_onnx(clean, image=IMAGE)[0])
    assert run_onnx(gated, image=IMAGE, **{KEY_INPUT: RIGHT})[1].shape == (1, 4, 40, 40)
