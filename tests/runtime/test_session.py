"""Sessions: the provider that really runs, foreign models, taps, padding."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from kdguard.export.errors import MissingDependencyError, UserError
from kdguard.export.model_card import KEY_INPUT, CardOverrides, ModelCard, write_card
from kdguard.export.onnx_files import load_onnx, save_onnx
from kdguard.graph_passes.insert_key_gate import gate_model
from kdguard.graph_passes.insert_svd_perturb import InsertSvdPerturb
from kdguard.graph_passes.key_gate import key_tensor
from kdguard.graph_passes.op import SvdPerturbAttributes
from kdguard.runtime import open_model
from kdguard.runtime.resolve_card import resolve_card, resolve_common_card
from kdguard.runtime.session import RestorationSession, check_taps
from tests.conftest import conv_weights, make_conv_net, make_model, photograph
from tests.graph_passes.key_gate.gate_models import secret

IMAGE = photograph(37).astype(np.float32) / 255


def make_halving_net() -> object:
    """Stride 2 down, depth-to-space up, added to the input: sizes must be even."""
    nodes = [
        helper.make_node("Conv", ["image", "w"], ["low"], pads=[1, 1, 1, 1], strides=[2, 2]),
        helper.make_node("DepthToSpace", ["low"], ["high"], blocksize=2),
        helper.make_node("Add", ["image", "high"], ["restored"]),
    ]
    return make_model(nodes, {"w": conv_weights(0, 12, 3)})


def test_says_what_runs(conv_net_file: Path) -> None:
    assert open_model(conv_net_file).session.provider in {"CPUExecutionProvider", "CUDAExecutionProvider"}
    assert open_model(conv_net_file, provider="cpu").session.provider == "CPUExecutionProvider"


def test_cuda_by_name_is_cuda_or_an_error(conv_net_file: Path) -> None:
    """The GPU wheel falls back to the CPU without a word; we do not."""
    try:
        session = open_model(conv_net_file, provider="cuda").session
    except MissingDependencyError as error:
        assert error.exit_code == 3
        assert "fell back to CPUExecutionProvider" in str(error)
    else:
        assert session.provider == "CUDAExecutionProvider"


def test_foreign_model_needs_a_task(tmp_path: Path) -> None:
    save_onnx(make_conv_net(), tmp_path / "foreign.onnx")
    with pytest.raises(UserError, match="does not say what it restores"):
        open_model(tmp_path / "foreign.onnx")
    session = open_model(tmp_path / "foreign.onnx", task="deraining")
    assert session.card == ModelCard(task="deraining", input_name="image", output_name="restored")
    assert session.restore(IMAGE).shape == IMAGE.shape


def test_task_against_card(conv_net_file: Path) -> None:
    with pytest.raises(UserError, match="by its card"):
        open_model(conv_net_file, task="dehazing")
    with pytest.raises(UserError, match="the pipeline says dehazing; write task: deraining"):
        resolve_card(load_onnx(conv_net_file), "dehazing", overrides=CardOverrides(in_pipeline=True))


def test_what_the_user_says_wins_over_the_card(card: ModelCard) -> None:
    model = make_conv_net()
    write_card(model, card)
    assert resolve_card(model, None, overrides=CardOverrides(size_multiple=4)).size_multiple == 4
    with pytest.raises(UserError, match="--extra-input sigma: the model has no such input; it has image"):
        resolve_card(model, None, overrides=CardOverrides(extra_inputs={"sigma": (1.0,)}))


@pytest.mark.parametrize(
    ("said", "told"),
    [
        ({"value_range": (0, 255)}, "value range 0 to 1 of the card is overruled: --value-range says 0 to 255"),
        ({"layout": "NHWC"}, "layout NCHW of the card is overruled: --layout says NHWC"),
        ({"size_multiple": 4}, "size multiple 2 of the card is overruled: --size-multiple says 4"),
        ({"extra_inputs": {"image": (2.0,)}}, "image = 1 of the card is overruled: --extra-input says 2"),
        ({"size_multiple": 4, "in_pipeline": True}, "overruled: teacher.size_multiple says 4"),
        ({"size_multiple": 4, "layout": "NHWC"}, "says NHWC; size multiple 2 of the card is overruled"),
        ({"size_multiple": 2, "layout": "NCHW", "value_range": (0, 1), "extra_inputs": {"image": (1.0,)}}, ""),
    ],
    ids=str,
)
def test_a_card_that_is_overruled_is_told_of(
    card: ModelCard, capsys: pytest.CaptureFixture[str], said: dict[str, object], told: str
) -> None:
    model = make_conv_net()
    write_card(model, card.model_copy(update={"size_multiple": 2, "extra_inputs": {"image": [1.0]}}))
    for resolve in (
        lambda overrides: resolve_card(model, None, "t.onnx", overrides),
        lambda overrides: resolve_common_card(model, model, None, "t.onnx", overrides),
    ):
        resolve(CardOverrides(**said))  # type: ignore[arg-type]
        lines = capsys.readouterr().out.splitlines()
        assert len(lines) == bool(told)
        assert not told or (lines[0].startswith("t.onnx: ") and told in lines[0])


def test_misspelt_taps_are_told_the_nearest() -> None:
    with pytest.raises(UserError, match=r"tap 'tial' is not a tensor of the model's graph; did you mean 'tail'\?"):
        check_taps(["tial"], make_conv_net())
    with pytest.raises(UserError, match="tap 'zzz' is not a tensor of the teacher's graph; see `kdguard inspect"):
        check_taps(["zzz"], make_conv_net(), "teacher")


def test_teacher_and_hardened_share_a_card(card: ModelCard) -> None:
    def with_card(changes: dict[str, object] | None) -> onnx.ModelProto:
        model = make_conv_net()
        if changes is not None:
            write_card(model, card.model_copy(update=changes))
        return model

    for first, second in ((None, {}), ({}, None), ({"task": None}, {}), ({}, {"task": None})):
        assert resolve_common_card(with_card(first), with_card(second), None, "t").task == "deraining"
    for other in ({"task": "dehazing"}, {"scale": 2}):
        with pytest.raises(UserError, match="is this its teacher"):
            resolve_common_card(with_card({}), with_card(other), None, "t")


def test_probe_finds_the_size_multiple_and_images_are_padded() -> None:
    model = make_halving_net()
    card = resolve_card(model, "dehazing")  # type: ignore[arg-type]
    assert card.size_multiple == 2
    restored = RestorationSession(model, card).restore(IMAGE)  # type: ignore[arg-type]
    assert restored.shape == IMAGE.shape


def test_probe_finds_the_scale() -> None:
    nodes = [
        helper.make_node("Conv", ["image", "w"], ["deep"], pads=[1, 1, 1, 1]),
        helper.make_node("DepthToSpace", ["deep"], ["restored"], blocksize=3),
    ]
    model = make_model(nodes, {"w": conv_weights(0, 27, 3)}, output_shape=("n", 3, "h3", "w3"))
    assert resolve_card(model, "super-resolution").scale == 3


def test_not_an_image_to_image_model() -> None:
    nodes = [helper.make_node("GlobalAveragePool", ["image"], ["restored"])]
    with pytest.raises(UserError, match="does not behave like an image-to-image model"):
        resolve_card(make_model(nodes, {}, output_shape=("n", 3, 1, 1)), "deraining")


def test_taps_and_unknown_taps(card: ModelCard) -> None:
    session = RestorationSession(make_conv_net(), card, taps=["b"])
    output, features = session.run(np.ones((1, 3, 9, 9), np.float32))
    assert output.shape == (1, 3, 9, 9)
    assert features.shape == (1, 8, 9, 9)
    with pytest.raises(UserError, match="tap 'zzz'"):
        RestorationSession(make_conv_net(), card, taps=["zzz"])


def test_half_precision_and_extra_inputs() -> None:
    model = make_conv_net(dtype=TensorProto.FLOAT16)
    card = resolve_card(model, "deraining")
    assert RestorationSession(model, card).restore(IMAGE).dtype == np.float32

    scaled = make_conv_net()
    scaled.graph.input.append(helper.make_tensor_value_info("boost", TensorProto.FLOAT, [1]))
    scaled.graph.node[-1].output[0] = "sum"
    scaled.graph.node.append(helper.make_node("Mul", ["sum", "boost"], ["restored"]))
    plain = ModelCard(task="deraining", input_name="image", output_name="restored")
    once, twice = (
        RestorationSession(scaled, plain.model_copy(update={"extra_inputs": {"boost": [v]}})).restore(IMAGE)
        for v in (1.0, 2.0)
    )
    np.testing.assert_allclose(twice, 2 * once, rtol=1e-6)


@pytest.mark.parametrize(
    ("image", "found"),
    [
        (photograph(20), r"this is uint8 \[20, 20, 3\]; divide 8-bit values by 255"),
        (IMAGE[..., 0], r"takes a floating-point image \[H, W, 3\].* this is float32 \[37, 37\]$"),
        (IMAGE[..., :1], r"this is float32 \[37, 37, 1\]$"),
        (IMAGE.transpose(2, 0, 1), r"this is float32 \[3, 37, 37\]$"),
        (IMAGE[None], r"this is float32 \[1, 37, 37, 3\]$"),
        (IMAGE > 0.5, r"this is bool"),
    ],
)
def test_only_images_are_restored(card: ModelCard, image: np.ndarray, found: str) -> None:
    for size in (None, (24, 24)):
        session = RestorationSession(make_conv_net(), card.model_copy(update={"fixed_size": size}))
        with pytest.raises(UserError, match=found):
            session.restore(image)
        for kind in (np.float64, np.float16):
            assert session.restore(IMAGE.astype(kind)).dtype == np.float32


def test_what_overshoots_is_not_clipped(card: ModelCard) -> None:
    twice = make_model([helper.make_node("Add", ["image", "image"], ["restored"])], {})
    restored = RestorationSession(twice, card).restore(np.full((16, 16, 3), 0.75, np.float32))
    np.testing.assert_allclose(restored, 1.5)


def test_runtime_failures_are_one_line(card: ModelCard) -> None:
    with pytest.raises(UserError, match="onnxruntime failed") as caught:
        RestorationSession(make_conv_net(), card).run(np.ones((1, 5, 8, 8), np.float32))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("required", [False, True])
def test_a_key_gate(required: bool) -> None:
    """Without a key a session feeds none; whoever has one gives it with the image."""
    hardened = InsertSvdPerturb(["b", "d"], SvdPerturbAttributes(rank=2, gain=10.0), placement="in-path")(
        make_conv_net()
    ).model
    gated = gate_model(hardened, [secret(0)], ["c"], required=required)
    card = resolve_card(gated, "deraining")
    assert card == resolve_card(hardened, "deraining") == resolve_common_card(make_conv_net(), gated, "deraining", "it")
    session = RestorationSession(gated, card, taps=["kdguard_hint/c", "b"])
    everybody = RestorationSession(hardened, card).restore(IMAGE)
    assert np.array_equal(session.restore(IMAGE), everybody)
    for wrong in (np.zeros(1024, np.float32), key_tensor(secret(1))):
        assert np.array_equal(session.restore(IMAGE, {KEY_INPUT: wrong}), everybody)
    opened = session.restore(IMAGE, {KEY_INPUT: key_tensor(secret(0))})
    assert np.array_equal(opened, RestorationSession(make_conv_net(), card).restore(IMAGE))
    _, hint, tap = session.run(IMAGE.transpose(2, 0, 1)[None], {KEY_INPUT: key_tensor(secret(0))})
    assert (hint.shape, tap.shape) == ((1, 4, 37, 37), (1, 8, 37, 37))
