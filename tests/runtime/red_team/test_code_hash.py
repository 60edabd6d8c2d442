"""Which code a hash covers."""

from __future__ import annotations

from pathlib import Path

import pytest

from kdguard.runtime.recipes import get_recipe
from kdguard.runtime.red_team import code_hash
from kdguard.runtime.red_team.code_hash import hash_code, modules_of


@pytest.fixture
def sources(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A folder that stands for our packages."""
    monkeypatch.setattr(code_hash, "_file_of", lambda name: tmp_path / f"{name}.py")
    return tmp_path


def written(folder: Path, **modules: str) -> str:
    for name, text in modules.items():
        (folder / f"kdguard.a.{name}.py").write_text(text)
    return hash_code.__wrapped__("kdguard.a.root")


ROOT = "from kdguard.a.near import x\n\ndef f():\n    import kdguard.a.lazy\n"


def test_what_is_imported_counts_directly_or_not_at_the_top_or_inside(sources: Path) -> None:
    whole = {"root": ROOT, "near": "from kdguard.a import far", "far": "x = 1", "lazy": "y = 1", "other": "z = 1"}
    first = written(sources, **whole)
    for name in ("root", "near", "far", "lazy"):
        assert written(sources, **(whole | {name: whole[name] + "\n# changed"})) != first, name
    assert written(sources, **(whole | {"other": "z = 2"})) == first


def test_imports_for_type_checkers_do_not_count(sources: Path) -> None:
    root = "if TYPE_CHECKING:\n    from kdguard.a.typed import T\nelse:\n    import kdguard.a.real\n"
    first = written(sources, root=root, typed="T = 1", real="T = 1")
    assert written(sources, typed="T = 2") == first
    assert written(sources, real="T = 2") != first


def test_modules_may_import_each_other(sources: Path) -> None:
    assert written(sources, root="import kdguard.a.near", near="import kdguard.a.root")


def test_where_the_code_lies_is_no_part_of_the_hash(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    found = []
    for folder in (tmp_path / "one", tmp_path / "two"):
        folder.mkdir()
        monkeypatch.setattr(code_hash, "_file_of", lambda name, folder=folder: folder / f"{name}.py")
        found.append(written(folder, root="import kdguard.a.near", near="x = 1"))
    assert found[0] == found[1]


def test_a_recipe_is_its_class_and_its_bases() -> None:
    modules = modules_of(type(get_recipe("strip")))
    assert set(modules) >= {"kdguard.runtime.recipes.strip", "kdguard.runtime.recipes.fitnets"}
    assert len({hash_code(*modules_of(type(get_recipe(name)))) for name in ("strip", "fitnets", "strip+refit")}) == 3


def test_the_registry_of_recipes_is_not_followed(sources: Path) -> None:
    """A new recipe changes nothing about the students of the others."""
    registry = sources / f"{code_hash.REGISTRY}.py"
    registry.write_text("x = 1")
    first = written(sources, root="from kdguard.runtime.recipes import Batch")
    registry.write_text("x = 2")
    assert written(sources) == first
