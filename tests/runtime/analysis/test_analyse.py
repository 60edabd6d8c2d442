"""Analyses: known spectra, dead maps, maps without influence, reasons, and the cache."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from kdguard.export.errors import UserError
from kdguard.export.model_card import ModelCard
from kdguard.graph_passes.insert_svd_perturb import InsertSvdPerturb
from kdguard.graph_passes.op import SvdPerturbAttributes
from kdguard.runtime.analysis import Analysis, analyse
from kdguard.runtime.analysis.analyse import without_influence
from tests.awkward_graphs import attention
from tests.conftest import conv_weights, make_conv_net, make_model
from tests.foreign_models import with_input_shape
from tests.runtime.image_pairs import noisy_pairs

WIDTH = 8
PADS = {"pads": [1, 1, 1, 1]}


def awkward_maps() -> onnx.ModelProto:
    """Relu b, and beside it: a map of zeros, a constant one, one that a product with zero keeps from the output,
    one of a single position, and one that is infinite."""
    nodes = [
        helper.make_node("Conv", ["image", "wa"], ["a"], "conv_a", **PADS),
        helper.make_node("Relu", ["a"], ["b"], "relu_b"),
        helper.make_node("Conv", ["b", "w0"], ["zeros"], "conv_zeros", **PADS),
        helper.make_node("Conv", ["b", "w0", "bias"], ["constant"], "conv_constant", **PADS),
        helper.make_node("Conv", ["b", "wc"], ["idle"], "conv_idle", **PADS),
        helper.make_node("Mul", ["idle", "zero"], ["nothing"], "mul_nothing"),
        helper.make_node("GlobalAveragePool", ["b"], ["pooled"], "pool"),
        helper.make_node("Exp", ["b"], ["positive"], "exp"),
        helper.make_node("Div", ["positive", "zero"], ["infinite"], "divide"),
        helper.make_node("Clip", ["infinite", "zero", "zero"], ["again"], "clip"),
        helper.make_node("Sum", ["b", "zeros", "constant", "nothing", "pooled", "again"], ["m"], "sum"),
        helper.make_node("Conv", ["m", "wt"], ["tail"], "conv_tail", **PADS),
        helper.make_node("Add", ["image", "tail"], ["restored"], "add_out"),
    ]
    weights = {
        "wa": conv_weights(0, WIDTH, 3),
        "w0": np.zeros((WIDTH, WIDTH, 3, 3), np.float32),
        "wc": conv_weights(1, WIDTH, WIDTH),
        "wt": conv_weights(2, 3, WIDTH) * np.float32(0.05),
        "bias": np.linspace(0.1, 1, WIDTH, dtype=np.float32),
        "zero": np.array(0, np.float32),
    }
    return make_model(nodes, weights)


def known_map(values: list[float], means: list[float]) -> onnx.ModelProto:
    """A map whose channel i is the image's red channel, roughly, times values[i], plus means[i]."""
    weight = np.zeros((len(values), 3, 1, 1), np.float32)
    weight[:, 0, 0, 0] = values
    nodes = [
        helper.make_node("Conv", ["image", "w", "bias"], ["map"], "conv_map"),
        helper.make_node("Conv", ["map", "back"], ["restored"], "conv_back"),
    ]
    back = np.full((3, len(values), 1, 1), 0.1, np.float32)
    return make_model(nodes, {"w": weight, "bias": np.array(means, np.float32), "back": back})


def test_spectrum_of_a_known_map(card: ModelCard) -> None:
    """Rank one after the means are taken out; energy and variation follow from the image itself."""
    values, means = [3.0, 2.0, 1.0, 0.5], [5.0, 0.0, -1.0, 2.0]
    pairs = noisy_pairs(2, 40)
    analysis = analyse(known_map(values, means), card, pairs)
    (layer,) = analysis.layers
    red = [pair.degraded[..., 0].astype(np.float64) for pair in pairs]
    maps = [np.multiply.outer(values, r) + np.array(means)[:, None, None] for r in red]
    assert layer.energy == pytest.approx(np.mean([np.mean(F**2) for F in maps]), rel=1e-4)
    assert layer.variation == pytest.approx(np.mean([np.var(r) for r in red]) * np.mean(np.square(values)), rel=1e-4)
    assert layer.centred_share[1] == pytest.approx(1, abs=1e-5)
    singular = [np.linalg.svd(F.reshape(4, -1), compute_uv=False) ** 2 for F in maps]
    for rank in (1, 2):
        share = np.mean([s[:rank].sum() / s.sum() for s in singular])
        assert layer.energy_share[rank] == pytest.approx(share, rel=1e-4)
    assert layer.energy_share[8] == pytest.approx(1)
    assert (layer.op_type, layer.readers, layer.shape) == ("Conv", ["Conv"], [1, 4, 40, 40])
    assert layer.values == 4 * 40 * 40
    assert (analysis.images, analysis.input_shape) == (2, [1, 3, 40, 40])


def test_crops_are_described_and_costs_are_of_whole_images(card: ModelCard) -> None:
    analysis = analyse(make_conv_net(), card, noisy_pairs(2, 128), sensitivity=False)
    assert analysis.input_shape == [1, 3, 96, 96]
    assert analysis.whole_shape == [1, 3, 128, 128]
    assert analysis.by_name()["b"].shape == [1, WIDTH, 96, 96]
    assert analysis.by_name()["b"].values == WIDTH * 128 * 128
    depths = [layer.depth for layer in analysis.layers]
    assert [layer.name for layer in analysis.layers] == ["a", "b", "c", "d", "tail"]
    assert depths == sorted(depths)


def test_maps_that_are_not_worth_perturbing(card: ModelCard) -> None:
    analysis = analyse(awkward_maps(), card, noisy_pairs(2))
    layers = analysis.by_name()
    assert {name for name, layer in layers.items() if layer.dead} == {"zeros", "constant", "nothing", "again"}
    assert layers["constant"].energy > 0.1
    assert {name for name, layer in layers.items() if not layer.influences} == {"idle", "positive"}
    assert layers["b"].sensitivity_db is not None
    assert layers["zeros"].psnr_between_db is None
    assert analysis.skipped == {
        "pooled": "only 1 position: no map",
        "infinite": "not finite on the calibration images",
    }
    alive = [layer for layer in analysis.layers if not layer.dead]
    assert without_influence(awkward_maps(), card, noisy_pairs(2), alive) == ["idle", "positive"]


def test_without_sensitivity_influence_is_taken_for_granted(card: ModelCard) -> None:
    layers = analyse(awkward_maps(), card, noisy_pairs(2), sensitivity=False).by_name()
    assert layers["idle"].influences
    assert layers["b"].psnr_between_db is None


def test_other_maps_are_passed_over_with_a_reason(card: ModelCard) -> None:
    once = InsertSvdPerturb(["b"], SvdPerturbAttributes(gain=10.0))(attention()).model
    skipped = analyse(once, card, noisy_pairs(1), sensitivity=False).skipped
    assert skipped["b"] == "already hardened"
    assert skipped["tokens"] == "3-D; only [N, C, H, W] maps are chosen"
    wide = analyse(make_conv_net(1032), card, noisy_pairs(1, 16), sensitivity=False)
    assert wide.skipped["d"].startswith("1032 channels")
    assert [layer.name for layer in wide.layers] == ["tail"]


def test_depths_in_a_hardened_model_are_those_of_the_clean_one(card: ModelCard) -> None:
    clean = make_conv_net()
    hardened = InsertSvdPerturb(["b"], SvdPerturbAttributes(rank=2, gain=10.0), placement="paired")(clean).model
    before, after = (analyse(model, card, noisy_pairs(1), sensitivity=False).by_name() for model in (clean, hardened))
    assert set(after) == {"a", "c", "d", "tail"}
    assert {name: layer.depth for name, layer in after.items()} == {name: before[name].depth for name in after}


def test_a_model_without_maps_is_refused(card: ModelCard) -> None:
    nodes = [
        helper.make_node("ReduceMean", ["image", "axis"], ["grey"], keepdims=1),
        helper.make_node("Expand", ["grey", "three"], ["restored"]),
    ]
    model = make_model(nodes, {"axis": np.array([1]), "three": np.array([1, 3, 1, 1])})
    with pytest.raises(UserError, match="no 4-D floating-point feature map"):
        analyse(model, card, noisy_pairs(1))


@pytest.mark.parametrize("size", [(32, 40), (96, 64)])
def test_models_of_one_size(card: ModelCard, size: tuple[int, int]) -> None:
    """Images are larger than one and smaller than the other."""
    model = with_input_shape(make_conv_net(), 1, 3, *size)
    analysis = analyse(model, card.model_copy(update={"fixed_size": size}), noisy_pairs(2))
    assert analysis.whole_shape == [1, 3, *size]
    assert all(layer.influences for layer in analysis.layers)


def test_half_precision(card: ModelCard) -> None:
    layers = analyse(make_conv_net(dtype=TensorProto.FLOAT16), card, noisy_pairs(2)).by_name()
    full = analyse(make_conv_net(), card, noisy_pairs(2)).by_name()
    assert layers["d"].dtype == "float16"
    assert layers["d"].energy == pytest.approx(full["d"].energy, rel=1e-2)


def written(folder: Path) -> Path:
    (path,) = folder.iterdir()
    return path


def test_the_cache_is_read(card: ModelCard, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model, pairs, cache = make_conv_net(), noisy_pairs(2), tmp_path / "new" / "cache"
    first = analyse(model, card, pairs, cache=cache)
    path = written(cache)
    assert "analysis read from" not in capsys.readouterr().out
    marked = first.model_copy(update={"cost": 123.0})
    path.write_text(marked.model_dump_json())
    assert analyse(model, card, pairs, cache=cache) == marked
    assert "analysis read from" in capsys.readouterr().out


def test_an_analysis_with_sensitivity_serves_who_needs_none(card: ModelCard, tmp_path: Path) -> None:
    model, pairs = make_conv_net(), noisy_pairs(2)
    whole = analyse(model, card, pairs, cache=tmp_path)
    assert analyse(model, card, pairs, cache=tmp_path, sensitivity=False) == whole
    plain = analyse(model, card, pairs, cache=tmp_path / "other", sensitivity=False)
    assert plain != whole
    assert analyse(model, card, pairs, cache=tmp_path / "other") == whole


@pytest.mark.parametrize("damage", [b"", b"{}", b"\xff\xfe", b'{"layers": 3}'])
def test_a_damaged_cache_is_replaced(card: ModelCard, tmp_path: Path, damage: bytes) -> None:
    model, pairs = make_conv_net(), noisy_pairs(1)
    first = analyse(model, card, pairs, cache=tmp_path, sensitivity=False)
    path = written(tmp_path)
    path.write_bytes(damage)
    assert analyse(model, card, pairs, cache=tmp_path, sensitivity=False) == first
    assert Analysis.model_validate_json(path.read_text()) == first


def test_anything_else_misses_the_cache(card: ModelCard, tmp_path: Path) -> None:
    model, pairs = make_conv_net(), noisy_pairs(2)
    darker = [*pairs[:-1], replace(pairs[-1], degraded=pairs[-1].degraded * np.float32(0.5))]
    other = card.model_copy(update={"value_range": (-1.0, 1.0)})
    for arguments in (
        (model, card, pairs),
        (model, card, darker),
        (model, other, pairs),
        (make_conv_net(9), card, pairs),
    ):
        analyse(*arguments, cache=tmp_path, sensitivity=False)
    analyse(model, card, pairs[:1], cache=tmp_path)
    assert len(list(tmp_path.iterdir())) == 5


def test_a_cache_that_is_a_file_is_said(card: ModelCard, tmp_path: Path) -> None:
    (tmp_path / "cache").touch()
    with pytest.raises(UserError, match=r"--cache .*cache: cannot be used as a folder"):
        analyse(make_conv_net(), card, noisy_pairs(1), cache=tmp_path / "cache", sensitivity=False)


def test_images_on_which_the_teacher_fails_are_named(card: ModelCard) -> None:
    pairs = noisy_pairs(2)
    pairs[1].degraded[20, 20] = np.nan
    with pytest.raises(UserError, match="'p1': the clean teacher itself gives NaN"):
        analyse(make_conv_net(), card, pairs)
