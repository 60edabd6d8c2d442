"""What a thief asks which file, and under which keys the answers are kept."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest

from kdguard.export.image_tensor import image_to_tensor
from kdguard.export.model_card import ModelCard
from kdguard.export.onnx_files import hash_model
from kdguard.graph_passes.insert_svd_perturb import InsertSvdPerturb
from kdguard.graph_passes.op import SvdPerturbAttributes
from kdguard.runtime.recipes import get_recipe
from kdguard.runtime.recipes.authorised import strongest_directions
from kdguard.runtime.recipes.base import Loot, Query, Recipe
from kdguard.runtime.recipes.dihedral_average import DihedralAverage, harmless_views
from kdguard.runtime.recipes.fitnets import FitNets
from kdguard.runtime.recipes.fitnets_standardised import FitNetsStandardised
from kdguard.runtime.red_team import code_hash, teacher_cache
from kdguard.runtime.red_team.loot import Thief
from kdguard.runtime.red_team.material import Material, store_tiles
from kdguard.runtime.red_team.pieces import Pieces
from kdguard.runtime.red_team.teacher_cache import SPREAD, TeacherCache
from kdguard.runtime.red_team.tile import Tile
from kdguard.runtime.red_team.views import turn, turn_back
from kdguard.runtime.session import RestorationSession
from tests.conftest import photograph

IMAGE = photograph(48).astype(np.float32) / 255
TILE = Tile("p", IMAGE, IMAGE, IMAGE)


@pytest.fixture
def loot(conv_net: onnx.ModelProto, card: ModelCard) -> Loot:
    """Hardened in the path: without its node the model answers differently."""
    attributes = SvdPerturbAttributes(rank=2, gain=30.0)
    model = InsertSvdPerturb(["d"], attributes=attributes, placement="in-path")(conv_net).model
    return Loot(model, card, "d", "b", [IMAGE], [TILE], [TILE])


def material(loot: Loot, recipe: Recipe, folder: Path) -> Material:
    cache, pieces = TeacherCache(folder), Pieces([TILE], [TILE])
    return Thief(loot, "hardened", cache, hash_model(loot.model)).material_for(
        recipe, pieces, store_tiles(pieces, folder)
    )


def answer(model: onnx.ModelProto, card: ModelCard) -> list[np.ndarray]:
    return RestorationSession(model, card, taps=["d"]).run(image_to_tensor(IMAGE, card))


@pytest.mark.parametrize("name", ["strip", "strip+refit", "plugin-substitution"])
def test_outputs_are_those_of_the_shipped_file_and_maps_those_of_the_edited_one(
    loot: Loot, tmp_path: Path, name: str
) -> None:
    edit = get_recipe(name).query(loot).edit
    assert edit is not None
    shipped, edited = answer(loot.model, loot.card), answer(edit(loot), loot.card)
    assert np.abs(shipped[1] - edited[1]).max() > 0.1
    found = material(loot, get_recipe(name), tmp_path).answers
    assert found is not None
    np.testing.assert_allclose(np.load(found.output)[:1], shipped[0], atol=1e-6)
    for path in found.maps:
        np.testing.assert_allclose(np.load(path)[:1], edited[1], atol=1e-6)


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[set[str]]:
    """The tensors of every round of questions; empty it to start anew."""
    rounds: list[set[str]] = []
    fill = teacher_cache._fill

    def remember(session: object, views: object, tiles: object, targets: dict[str, Path], advance: object) -> None:
        rounds.append(set(targets))
        fill(session, views, tiles, targets, advance)  # type: ignore[arg-type]

    monkeypatch.setattr(teacher_cache, "_fill", remember)
    return rounds


def test_an_edited_file_is_not_asked_for_outputs(loot: Loot, tmp_path: Path, asked: list[set[str]]) -> None:
    first = material(loot, get_recipe("fitnets"), tmp_path)
    second = material(loot, get_recipe("strip"), tmp_path)
    assert asked == [{"", "d"}, {"d"}]
    assert first.answers is not None
    assert second.answers is not None
    assert first.answers.output == second.answers.output
    assert first.identity != second.identity


class AllViewsOfD(DihedralAverage):
    """Views average outputs; maps are what the file has for the image as it is."""

    name, taps = "views-of-d", 1

    def query(self, loot: Loot) -> Query:
        return Query(taps=("d",), views=lambda _: tuple(range(8)))


def test_views_concern_the_output_only(loot: Loot, tmp_path: Path, asked: list[set[str]]) -> None:
    plain = material(loot, get_recipe("fitnets"), tmp_path).answers
    averaged = material(loot, AllViewsOfD(), tmp_path).answers
    assert plain is not None
    assert averaged is not None
    assert asked == [{"", "d"}, {""}]
    assert averaged.maps == plain.maps
    assert np.abs(np.load(averaged.output) - np.load(plain.output)).max() > 1e-4


def test_a_spread_is_kept_where_it_is_asked_for(loot: Loot, tmp_path: Path, asked: list[set[str]]) -> None:
    plain = material(loot, get_recipe("fitnets"), tmp_path)
    found = material(loot, get_recipe("authorised"), tmp_path)
    assert asked == [{"", "d"}, {"", SPREAD}]
    assert plain.answers is not None
    assert plain.answers.spread is None
    assert found.answers is not None
    assert found.answers.spread is not None
    views = harmless_views(loot)
    assert len(views) > 1
    session = RestorationSession(loot.model, loot.card)
    answers = [turn_back(session.restore(turn(IMAGE, view)), view) for view in views]
    np.testing.assert_allclose(np.load(found.answers.output)[0].transpose(1, 2, 0), np.mean(answers, 0), atol=1e-5)
    apart = np.std(answers, axis=0).mean(axis=-1)
    np.testing.assert_allclose(np.load(found.answers.spread)[0, 0], apart, atol=1e-5)
    # The hints are the tapped map's own, which others read whole.
    np.testing.assert_array_equal(
        np.load(found.answers.maps[0]), strongest_directions([np.load(plain.answers.maps[0])])
    )


def test_answers_of_another_card_are_not_taken(loot: Loot, tmp_path: Path) -> None:
    """The same file fed in another value range answers something else."""
    wide = replace(loot, card=loot.card.model_copy(update={"value_range": (-1.0, 1.0)}))
    first, second = (material(held, get_recipe("output-l1"), tmp_path) for held in (loot, wide))
    assert first.answers is not None
    assert second.answers is not None
    assert np.abs(np.load(first.answers.output) - np.load(second.answers.output)).max() > 1e-4
    assert first.identity != second.identity


class Halved(FitNets):
    name, divisor = "halved", 2

    def query(self, loot: Loot) -> Query:
        return Query(self.chosen_taps(loot), rework=lambda maps: maps[0] / self.divisor)


class Quartered(Halved):
    """Of the same module: only its name tells it from the other one."""

    name, divisor = "quartered", 4


def test_maps_reworked_by_other_recipes_are_not_taken(loot: Loot, tmp_path: Path) -> None:
    found = [material(loot, recipe, tmp_path) for recipe in (FitNets(), FitNetsStandardised(), Halved(), Quartered())]
    plain, standardised, *divided = (np.load(each.answers.maps[0]) for each in found if each.answers)
    np.testing.assert_allclose(np.stack(divided), np.stack([plain / 2, plain / 4]))
    assert np.abs(standardised - plain).max() > 0.1
    assert len({each.identity for each in found}) == 4


@pytest.fixture
def change_code(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str], None]]:
    """Let a module look changed."""
    source = code_hash._source

    def change(module: str) -> None:
        monkeypatch.setattr(code_hash, "_source", lambda name: source(name) + b"\n" * (name == module))
        code_hash.hash_code.cache_clear()

    yield change
    monkeypatch.undo()
    code_hash.hash_code.cache_clear()


@pytest.mark.parametrize(
    ("recipe", "module", "again"),
    [
        ("strip", "kdguard.graph_passes.strip_nodes", [{"d"}]),
        ("strip+refit", "kdguard.runtime.strip", [{"d"}]),
        ("dihedral-average", "kdguard.runtime.recipes.dihedral_average", [{""}]),
        ("fitnets", "kdguard.runtime.red_team.teacher_cache", [{"", "d"}]),
        ("fitnets", "kdguard.runtime.red_team.tile", [{"", "d"}]),
        ("fitnets", "kdguard.runtime.session", [{"", "d"}]),
        # What nobody edits is asked for by nobody's code.
        ("fitnets", "kdguard.runtime.recipes.fitnets", []),
    ],
)
def test_answers_that_other_code_asked_for_are_not_taken(
    loot: Loot, tmp_path: Path, asked: list[set[str]], change_code: Callable, recipe: str, module: str, again: object
) -> None:
    first = material(loot, get_recipe(recipe), tmp_path)
    asked.clear()
    assert material(loot, get_recipe(recipe), tmp_path) == first
    assert asked == []
    change_code(module)
    second = material(loot, get_recipe(recipe), tmp_path)
    assert asked == again
    assert (second.identity == first.identity) == (not again)


def test_answers_of_another_runtime_are_not_taken(
    loot: Loot, tmp_path: Path, asked: list[set[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    first = material(loot, get_recipe("output-l1"), tmp_path)
    monkeypatch.setattr(onnxruntime, "__version__", "0.0")
    assert material(loot, get_recipe("output-l1"), tmp_path).identity != first.identity


def test_on_the_clean_file_whoever_goes_around_our_nodes_asks_for_the_same(
    conv_net: onnx.ModelProto, card: ModelCard, tmp_path: Path
) -> None:
    """So they share answers, and students."""
    clean = Loot(conv_net, card, "d", "b", [IMAGE], [TILE], [TILE])
    around = ("fitnets", "pre-tap", "strip", "strip+refit", "strip+finetune", "plugin-substitution")
    assert len({material(clean, get_recipe(name), tmp_path).identity for name in around}) == 1


def test_maps_that_other_code_reworked_are_not_taken(loot: Loot, tmp_path: Path, change_code: Callable) -> None:
    first = material(loot, get_recipe("fitnets-standardised"), tmp_path)
    change_code("kdguard.runtime.recipes.fitnets_standardised")
    second = material(loot, get_recipe("fitnets-standardised"), tmp_path)
    assert first.answers is not None
    assert second.answers is not None
    assert first.answers.output == second.answers.output
    assert first.answers.maps != second.answers.maps
