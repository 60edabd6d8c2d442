"""What recipes do to the stolen file and to what they read from it."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import onnx
import pytest

from kdguard.export.errors import UserError
from kdguard.export.image_tensor import image_to_tensor
from kdguard.export.model_card import ModelCard
from kdguard.graph_passes.insert_svd_perturb import InsertSvdPerturb
from kdguard.graph_passes.op import SvdPerturbAttributes
from kdguard.graph_passes.op.reference import svd_perturb
from kdguard.runtime.recipes import RECIPES, get_recipe
from kdguard.runtime.recipes.authorised import HINTS, strongest_directions
from kdguard.runtime.recipes.base import Loot
from kdguard.runtime.recipes.dihedral_average import harmless_views
from kdguard.runtime.recipes.fitnets_standardised import standardised
from kdguard.runtime.recipes.fitnets_svd_clip import clip_estimated, estimate_amplification
from kdguard.runtime.recipes.keyed_answers import KeyedAnswers
from kdguard.runtime.recipes.static_undo import undone
from kdguard.runtime.red_team.tile import Tile
from kdguard.runtime.session import RestorationSession
from tests.conftest import photograph

IMAGE = photograph(48).astype(np.float32) / 255
TILE = Tile("p", IMAGE, IMAGE, IMAGE)


@pytest.fixture
def hardened(conv_net: onnx.ModelProto) -> onnx.ModelProto:
    attributes = SvdPerturbAttributes(rank=2, gain=30.0)
    return InsertSvdPerturb(["d"], attributes=attributes, placement="paired")(conv_net).model


def loot(model: onnx.ModelProto, card: ModelCard, tap: str | None = "d", earlier: str | None = "b") -> Loot:
    return Loot(model, card, tap, earlier, [IMAGE], [TILE], [TILE])


def read(model: onnx.ModelProto, card: ModelCard, tap: str) -> np.ndarray:
    return RestorationSession(model, card, taps=[tap]).run(image_to_tensor(IMAGE, card))[1]


def asked(name: str, holding: Loot) -> np.ndarray:
    """The last map that a recipe ends up with."""
    query = get_recipe(name).query(holding)
    model = query.edit(holding) if query.edit else holding.model
    maps = [read(model, holding.card, tap) for tap in query.taps]
    return query.rework(maps) if query.rework else maps[-1]


def test_the_tap_misleads_and_what_goes_around_it_does_not(
    conv_net: onnx.ModelProto, hardened: onnx.ModelProto, card: ModelCard
) -> None:
    clean = read(conv_net, card, "d")
    assert np.abs(asked("fitnets", loot(hardened, card)) - clean).max() > np.abs(clean).max()
    for name in ("pre-tap", "strip", "strip+refit", "plugin-substitution"):
        np.testing.assert_allclose(asked(name, loot(hardened, card)), clean, atol=1e-5, err_msg=name)
        # Of the clean model they read the layer itself.
        np.testing.assert_allclose(asked(name, loot(conv_net, card)), clean, atol=1e-5, err_msg=name)


def test_refitting_changes_the_readers_of_in_path_layers(conv_net: onnx.ModelProto, card: ModelCard) -> None:
    attributes = SvdPerturbAttributes(rank=2, gain=1.5)
    in_path = InsertSvdPerturb(["d"], attributes=attributes, placement="in-path")(conv_net).model
    before = {t.name: onnx.numpy_helper.to_array(t) for t in conv_net.graph.initializer}
    changed = {}
    for name in ("strip", "strip+refit"):
        query = get_recipe(name).query(loot(in_path, card))
        assert query.edit is not None
        found = {t.name: onnx.numpy_helper.to_array(t) for t in query.edit(loot(in_path, card)).graph.initializer}
        changed[name] = {w for w, values in before.items() if w not in found or not np.allclose(found[w], values)}
    assert changed == {"strip": set(), "strip+refit": {"wt"}}


def test_substitution_is_deletion_without_deleting(
    conv_net: onnx.ModelProto, hardened: onnx.ModelProto, card: ModelCard
) -> None:
    query = get_recipe("plugin-substitution").query(loot(hardened, card))
    assert query.edit is not None
    model = query.edit(loot(hardened, card))
    assert [node.op_type for node in model.graph.node] == [node.op_type for node in hardened.graph.node]
    onnx.checker.check_model(model, full_check=True)
    tensor = image_to_tensor(IMAGE, card)
    clean, substituted = (RestorationSession(m, card).run(tensor)[0] for m in (conv_net, model))
    np.testing.assert_allclose(substituted, clean, atol=1e-6)


class Offered:
    """Scissors whose cuts are known by their names."""

    def own(self) -> str:
        return "own"

    def of_one_image(self) -> str:
        return "of one image"

    def with_zoomed(self) -> str:
        return "with zoomed"


def test_two_recipes_cut_tiles_of_their_own() -> None:
    """What key holders blend into the images around their tiles has tests of its own."""
    others = {name: recipe for name, recipe in RECIPES.items() if not isinstance(recipe, KeyedAnswers)}
    cut = {name: recipe.pieces(Offered()) for name, recipe in others.items()}  # type: ignore[arg-type]
    assert {name: pieces for name, pieces in cut.items() if pieces != "own"} == {
        "single-query": "of one image",
        "dukd": "with zoomed",
    }


def test_fsp_needs_two_layers(hardened: onnx.ModelProto, card: ModelCard) -> None:
    assert get_recipe("fsp").query(loot(hardened, card)).taps == ("b", "d")
    with pytest.raises(UserError, match="compares two layers"):
        get_recipe("fsp").query(loot(hardened, card, earlier=None))


def test_standardised_maps_forget_scale_and_offset() -> None:
    rng = np.random.default_rng(0)
    maps = rng.standard_normal((3, 4, 5, 5)).astype(np.float32)
    maps[:, 3] = 7.0
    found = standardised([maps * 50 + 3])
    np.testing.assert_allclose(found, standardised([maps]), atol=1e-4)
    np.testing.assert_allclose(found.mean(axis=(0, 2, 3)), 0, atol=1e-5)
    np.testing.assert_allclose(found[:, :3].std(axis=(0, 2, 3)), 1, atol=1e-5)
    assert (found[:, 3] == 0).all()


def test_hints_are_the_strongest_directions_of_a_map() -> None:
    """Two directions carry a map of twelve channels: their hints say where, all others say nothing."""
    rng = np.random.default_rng(0)
    basis = np.linalg.qr(rng.standard_normal((12, 2)))[0]
    drawn = rng.standard_normal((2, 3 * 5 * 5))
    drawn -= drawn.mean(axis=1, keepdims=True)
    sources = np.linalg.qr(drawn.T)[0].T.reshape(2, 3, 5, 5) * np.array([8.0, 2.0])[:, None, None, None]
    found = strongest_directions([np.einsum("fk,knhw->nfhw", basis, sources).astype(np.float32) + 5])
    assert found.shape == (3, HINTS, 5, 5)
    # The first is its source with unit variance, up to the sign; the second a quarter of that.
    for hint, source, deviation in zip(np.moveaxis(found, 1, 0)[:2], sources, (1.0, 0.25), strict=True):
        assert hint.std() == pytest.approx(deviation, rel=1e-4)
        assert abs(np.corrcoef(hint.ravel(), source.ravel())[0, 1]) == pytest.approx(1, abs=1e-4)
    np.testing.assert_allclose(found[:, 2:], 0, atol=1e-4)


def test_hints_of_narrow_and_of_dead_maps() -> None:
    rng = np.random.default_rng(0)
    assert strongest_directions([rng.standard_normal((2, 3, 4, 4)).astype(np.float32)]).shape == (2, 3, 4, 4)
    assert not strongest_directions([np.full((2, 3, 4, 4), 7.0, np.float32)]).any()


def falling_spectra(count: int = 4) -> np.ndarray:
    """Maps [M, 8, 12, 12] with channel means 0 whose singular values fall by a third from each to the next."""
    rng = np.random.default_rng(1)
    maps = []
    for _ in range(count):
        left = np.linalg.qr(rng.standard_normal((8, 8)))[0]
        positions = rng.standard_normal((144, 8))
        right = np.linalg.qr(positions - positions.mean(axis=0))[0]
        maps.append((left * 1.5 ** -np.arange(8)) @ right.T)
    return np.stack(maps).reshape(count, 8, 12, 12).astype(np.float32)


@pytest.mark.parametrize(("rank", "gain"), [(1, 10.0), (3, 5.0), (4, 40.0)])
def test_amplification_is_read_off_the_spectra_and_taken_back(rank: int, gain: float) -> None:
    clean = falling_spectra()
    tapped = svd_perturb(clean.astype(np.float64), SvdPerturbAttributes(rank=rank, gain=gain)).Y.astype(np.float32)
    sigma = np.linalg.svd(tapped.reshape(len(tapped), 8, -1), compute_uv=False).astype(np.float64)
    found = estimate_amplification(sigma)
    assert found[0] == rank
    assert found[1] == pytest.approx(gain, rel=0.02)
    np.testing.assert_allclose(clip_estimated([tapped]), clean, atol=0.02)


def test_maps_without_a_clear_jump_are_left_alone() -> None:
    clean = falling_spectra()
    for maps in (clean, clean[:, :1], clean[:, :2], np.zeros_like(clean)):
        np.testing.assert_array_equal(clip_estimated([maps]), maps)
    # The jump down to what is not there is no amplification.
    flat = clean.copy()
    flat[:, 2:] = clean[:, 2:] * 1e-7
    np.testing.assert_array_equal(clip_estimated([flat]), flat)


@pytest.mark.parametrize("tap", ["a", "b", "c", "d"])
def test_clean_maps_of_a_network_are_left_alone(conv_net: onnx.ModelProto, card: ModelCard, tap: str) -> None:
    """Their first singular value stands out, because channels have means."""
    clean = read(conv_net, card, tap)
    np.testing.assert_array_equal(asked("fitnets-svd-clip", loot(conv_net, card, tap)), clean)


@pytest.mark.parametrize("centred", [False, True])
def test_rank_and_gain_are_read_from_the_node(conv_net: onnx.ModelProto, card: ModelCard, centred: bool) -> None:
    """A gain of 2 is too small to stand out in the spectrum."""
    attributes = SvdPerturbAttributes(rank=2, gain=2.0, centred=centred)
    hardened = InsertSvdPerturb(["d"], attributes=attributes, placement="paired")(conv_net).model
    clean, tapped = read(conv_net, card, "d"), read(hardened, card, "d")
    assert np.abs(tapped - clean).max() > 0.3 * np.abs(clean).max()
    np.testing.assert_array_equal(clip_estimated([tapped]), tapped)
    found = asked("fitnets-svd-clip", loot(hardened, card))
    np.testing.assert_allclose(found, clean, atol=1e-3 * np.abs(clean).max())


def test_a_clear_amplification_of_a_networks_map_is_estimated(conv_net: onnx.ModelProto, card: ModelCard) -> None:
    clean = read(conv_net, card, "d")
    op = SvdPerturbAttributes(rank=2, gain=30.0, centred=True)
    tapped = svd_perturb(clean.astype(np.float64), op).Y.astype(np.float32)
    left = np.linalg.norm(clip_estimated([tapped]) - clean)
    assert left < 0.1 * np.linalg.norm(tapped - clean)


def test_a_linear_change_is_undone_from_a_few_images() -> None:
    rng = np.random.default_rng(2)
    clean = rng.standard_normal((6, 5, 8, 8)).astype(np.float32)
    mixing = rng.standard_normal((5, 5)).astype(np.float32)
    perturbed = np.einsum("mfhw,fg->mghw", clean, mixing) + 3
    found = undone([clean, perturbed])
    # The fit saw the first four.
    np.testing.assert_allclose(found[4:], clean[4:], atol=1e-2)


def test_the_undo_is_fitted_to_four_tiles_only() -> None:
    """The attacker has clean features of these: where the rest is mixed otherwise, the fit does not see it."""
    rng = np.random.default_rng(3)
    clean = rng.standard_normal((8, 5, 8, 8)).astype(np.float32)
    mixings = rng.standard_normal((2, 5, 5)).astype(np.float32)
    perturbed = np.concatenate(
        [np.einsum("mfhw,fg->mghw", clean[i : i + 4], M) for i, M in zip((0, 4), mixings, strict=True)]
    )
    found = undone([clean, perturbed])
    np.testing.assert_allclose(found[:4], clean[:4], atol=1e-2)
    assert np.abs(found[4:] - clean[4:]).max() > 0.5


def test_static_undo_reads_both_sides(hardened: onnx.ModelProto, card: ModelCard) -> None:
    query = get_recipe("static-undo").query(loot(hardened, card))
    clean, tapped = (read(hardened, card, tap) for tap in query.taps)
    assert np.abs(tapped).max() > 5 * np.abs(clean).max()


def test_views_that_hurt_the_teacher_are_left_out(card: ModelCard) -> None:
    """A teacher that brightens from top to bottom knows up from down: turning the image hurts it."""
    from onnx import helper

    from tests.conftest import make_model

    ramp = np.linspace(0, 0.3, 48, dtype=np.float32)[None, None, :, None]
    falling = make_model([helper.make_node("Add", ["image", "ramp"], ["restored"])], {"ramp": ramp})
    degraded = IMAGE * 0.5
    truth = degraded + ramp[0].transpose(1, 2, 0)
    part = Tile("p", degraded[8:24, 16:32], truth[8:24, 16:32], degraded, top=8, left=16)
    holding = Loot(falling, card, None, None, [degraded], [part], [part])
    # As it is, and mirrored left to right: the ramp does not change.
    assert harmless_views(holding) == (0, 4)
    same = make_model([helper.make_node("Identity", ["image"], ["restored"])], {})
    assert len(harmless_views(replace(holding, shipped=same))) == 8
