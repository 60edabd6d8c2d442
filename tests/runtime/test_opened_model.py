"""The same call for everybody: what a key changes, and what it does not."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from kdguard.export.errors import UserError
from kdguard.export.model_card import KEY_INPUT, ModelCard, write_card
from kdguard.export.onnx_files import load_onnx, save_onnx
from kdguard.graph_passes.insert_key_gate import gate_model, with_required_key
from kdguard.graph_passes.insert_svd_perturb import InsertSvdPerturb
from kdguard.graph_passes.insert_view_ensemble import InsertViewEnsemble
from kdguard.graph_passes.key_gate import KEY_BITS, KeyDigest
from kdguard.graph_passes.key_gate.lattice_hash import lattice_hash
from kdguard.graph_passes.op import SvdPerturbAttributes
from kdguard.runtime import OpenedModel, open_model, read_gate_secret
from kdguard.runtime.box.gate_keys import make_gate_key
from kdguard.runtime.box.keys import make_holder_key
from kdguard.runtime.session import RestorationSession
from kdguard.runtime.shipped import load_shipped
from tests.conftest import make_conv_net, photograph
from tests.graph_passes.key_gate.gate_models import secret, with_digests

CARD = ModelCard(task="deraining", input_name="image", output_name="restored", size_multiple=8)
IMAGE = photograph(37).astype(np.float32) / 255
HOLDER, OTHER, STRANGER = secret(0), secret(1), secret(2)
WRONG = [None, STRANGER, STRANGER.value, bytes(32), bytes([HOLDER.value[0] ^ 1, *HOLDER.value[1:]])]


@pytest.fixture(params=["optional", "required"])
def gated(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    model = InsertSvdPerturb(["b", "d"], SvdPerturbAttributes(rank=2, gain=10.0))(make_conv_net()).model
    write_card(model, CARD)
    save_onnx(model, tmp_path / "hardened.onnx")
    model = gate_model(model, [HOLDER, OTHER], {"b": 3})
    save_onnx(with_required_key(model) if request.param == "required" else model, tmp_path / "gated.onnx")
    return tmp_path / "gated.onnx"


def test_who_has_no_key_gets_the_same_bits(gated: Path) -> None:
    expected = open_model(gated.with_name("hardened.onnx")).restore(IMAGE)
    for key in WRONG:
        np.testing.assert_array_equal(open_model(gated, key).restore(IMAGE), expected)


@pytest.mark.parametrize("key", [HOLDER, OTHER, HOLDER.value])
def test_a_holder_gets_hints_and_the_same_restoration(gated: Path, key: object) -> None:
    model = open_model(gated, key)  # type: ignore[arg-type]
    hints = model.hints(IMAGE)
    assert {name: values.shape for name, values in hints.items()} == {"b": (3, 40, 40)}
    plain = open_model(gated).restore(IMAGE)
    assert np.abs(model.restore(IMAGE) - plain).max() < 1e-5


def test_refusals_do_not_tell_why(gated: Path, tmp_path: Path) -> None:
    refusals = set()
    for key in WRONG:
        with pytest.raises(UserError) as caught:
            open_model(gated, key).hints(IMAGE)
        refusals.add(str(caught.value))
    for path in (gated, gated.with_name("hardened.onnx")):
        with pytest.raises(UserError) as caught:
            open_model(path, STRANGER).hints(IMAGE)
        refusals.add(str(caught.value))
    assert refusals == {"there are no hints for this key"}


def test_what_has_not_the_form_of_a_key_is_refused(gated: Path, tmp_path: Path) -> None:
    """In the same words for a model with these holders, one with no gate and one that is not there: none is asked."""
    make_gate_key(tmp_path / "alice.gate")
    make_holder_key(tmp_path / "alice.key")
    texts = [(tmp_path / name).read_bytes() for name in ("alice.gate", "alice.gate.pub", "alice.key", "alice.key.pub")]
    value = HOLDER.value
    paths = [tmp_path / "alice.gate", str(tmp_path / "alice.gate")]
    digest = KeyDigest.of(HOLDER)
    for wrong in (*texts, *paths, digest, b"", value[:-1], value + b"0", value.hex(), value.hex().encode(), 0):
        said = set()
        for path in (gated, gated.with_name("hardened.onnx"), tmp_path / "absent.onnx"):
            with pytest.raises(UserError) as caught:
                open_model(path, wrong)  # type: ignore[arg-type]
            said.add(str(caught.value))
        for path in (gated, gated.with_name("hardened.onnx")):
            with pytest.raises(UserError) as caught:
                open_model(path).with_key(wrong)  # type: ignore[arg-type]
            said.add(str(caught.value))
        (line,) = said
        assert line.endswith("; read a holder's file with kdguard.runtime.read_gate_secret(path)")
        assert "\n" not in line
        assert "kdguard-gate" not in line.removesuffix("read_gate_secret(path)")
        assert value.hex()[:8] not in line


def test_a_holders_file_opens(gated: Path, tmp_path: Path) -> None:
    """Two lines, with paths as text."""
    make_gate_key(tmp_path / "alice.gate")
    hardened = load_onnx(gated.with_name("hardened.onnx"))
    save_onnx(gate_model(hardened, [read_gate_secret(tmp_path / "alice.gate")], {"b": 3}), tmp_path / "alices.onnx")
    holder = open_model(str(tmp_path / "alices.onnx"), read_gate_secret(str(tmp_path / "alice.gate")))
    assert holder.hints(IMAGE)["b"].shape == (3, 40, 40)


def test_the_secret_is_not_kept(gated: Path) -> None:
    """Only what it expands to, which goes into the model."""
    value = HOLDER.value
    shipped = load_shipped(gated)
    for key in (HOLDER, value):
        for model in (OpenedModel(shipped, CARD, key), open_model(gated, key), open_model(gated).with_key(key)):
            said = repr(vars(model))
            assert KEY_INPUT in said
            for form in ("GateSecret", value.hex(), repr(value)[2:-1], str(list(value))[1:-1]):
                assert form not in said


@pytest.mark.parametrize("bit", [0, 1])
def test_no_key_is_no_holders_key(gated: Path, bit: int) -> None:
    """Even where the gate opens for the key of zeros, or for that of ones: somebody exchanged the digests."""
    constant = np.full(KEY_BITS, bit, np.float32)
    save_onnx(with_digests(load_onnx(gated), lattice_hash(constant)), gated)
    hardened = open_model(gated.with_name("hardened.onnx"))
    nobody = open_model(gated)
    with pytest.raises(UserError, match="no hints for this key"):
        nobody.hints(IMAGE)
    np.testing.assert_array_equal(nobody.restore(IMAGE), hardened.restore(IMAGE))
    inner = RestorationSession(load_onnx(gated), CARD, taps=["kdguard_hint/b"])
    padded = np.zeros((1, 3, 40, 40), np.float32)
    padded[0, 0, 7, 7] = 1
    assert not inner.run(padded)[1].any()
    assert inner.run(padded, {KEY_INPUT: constant})[1].any()


def test_hints_that_are_zero_everywhere_are_hints(gated: Path) -> None:
    """The network has no biases, so black stays black."""
    black = np.zeros((16, 16, 3), np.float32)
    if KEY_INPUT not in {tensor.name for tensor in load_onnx(gated).graph.initializer}:
        with pytest.raises(UserError, match="no hints for this key"):  # an engine's zeros may mean either
            open_model(gated, HOLDER).hints(black)
        return
    np.testing.assert_array_equal(open_model(gated, HOLDER).hints(black)["b"], np.zeros((3, 16, 16)))
    with pytest.raises(UserError, match="no hints for this key"):
        open_model(gated, STRANGER).hints(black)


def test_callers_share_sessions_and_not_keys(gated: Path) -> None:
    shared = open_model(gated)
    holder, stranger, nobody = (shared.with_key(key) for key in (HOLDER, STRANGER, None))
    assert holder.session is stranger.session is shared.session
    expected, restored = open_model(gated, HOLDER).hints(IMAGE)["b"], shared.restore(IMAGE)

    def ask(model: OpenedModel) -> str:
        try:
            np.testing.assert_array_equal(model.hints(IMAGE)["b"], expected)
        except UserError:
            np.testing.assert_array_equal(model.restore(IMAGE), restored)
            return "restored"
        return "hints"

    with ThreadPoolExecutor(6) as pool:
        assert list(pool.map(ask, [holder, stranger, nobody] * 6)) == ["hints", "restored", "restored"] * 6
    assert ask(shared) == "restored"
    assert ask(holder.with_key(STRANGER)) == "restored"
    assert ask(stranger.with_key(OTHER)) == "hints"


def test_a_model_without_a_gate_takes_any_caller(gated: Path) -> None:
    hardened = open_model(gated.with_name("hardened.onnx"))
    np.testing.assert_array_equal(hardened.with_key(HOLDER).restore(IMAGE), hardened.restore(IMAGE))


def test_a_holder_gets_an_ensemble(tmp_path: Path) -> None:
    model = make_conv_net()
    write_card(model, CARD.model_copy(update={"value_range": (-1.0, 1.0)}))
    save_onnx(InsertViewEnsemble([4])(gate_model(model, [HOLDER], {"b": 3})).model, tmp_path / "gated.onnx")
    opened = open_model(tmp_path / "gated.onnx")
    holder = opened.with_key(HOLDER)
    image = IMAGE[:32, :24]
    plain, mirrored = opened.restore(image), opened.restore(image[:, ::-1])[:, ::-1]
    mean, spread = holder.ensemble(image)
    np.testing.assert_allclose(mean, (plain + mirrored) / 2, atol=1e-5)
    np.testing.assert_allclose(spread, np.std([plain, mirrored], 0).mean(-1), atol=1e-5)
    assert holder.ensemble(IMAGE[:37, :21]).spread.shape == (37, 21)
    np.testing.assert_allclose(holder.restore(image), plain, atol=1e-5)
    assert holder.hints(image)["b"].shape == (3, 32, 24)
    # Only who asks for the ensemble sends all views through the network.
    assert {value.name for value in holder.session._ready().get_outputs()} == {"restored", "kdguard_hint/b"}  # type: ignore[attr-defined]


def test_an_ensemble_is_of_whole_images(tmp_path: Path) -> None:
    model = make_conv_net()
    write_card(model, CARD.model_copy(update={"fixed_size": (32, 32), "size_multiple": 1}))
    save_onnx(InsertViewEnsemble([4])(gate_model(model, [HOLDER], {"b": 1})).model, tmp_path / "gated.onnx")
    holder = open_model(tmp_path / "gated.onnx", HOLDER)
    assert holder.ensemble(IMAGE[:32, :32]).mean.shape == (32, 32, 3)
    with pytest.raises(UserError, match="an ensemble is of whole images"):
        holder.ensemble(IMAGE)


def test_refusals_of_an_ensemble_do_not_tell_why(gated: Path, tmp_path: Path) -> None:
    save_onnx(InsertViewEnsemble([2])(gate_model(make_conv_net(), [HOLDER], {"b": 1})).model, tmp_path / "e.onnx")
    refusals = set()
    for path, key in [(gated, HOLDER), *((tmp_path / "e.onnx", key) for key in WRONG)]:
        with pytest.raises(UserError) as caught:
            open_model(path, key, task="deraining").ensemble(IMAGE)
        refusals.add(str(caught.value))
    assert refusals == {"there is no ensemble for this key"}
