"""Which recipes train alike, and so may share students."""

from __future__ import annotations

import pytest

from kdguard.runtime.recipes import RECIPES, get_recipe
from kdguard.runtime.recipes.base import Recipe, training_class
from kdguard.runtime.recipes.fitnets import FitNets
from kdguard.runtime.recipes.output_gt import OutputGt
from kdguard.runtime.recipes.output_l1 import OutputL1

ALIKE: dict[str, type[Recipe]] = {
    "same-budget": OutputGt,
    "single-query": OutputL1,
    "fitnets-tuned": FitNets,
    "fitnets-standardised": FitNets,
    "fitnets-svd-clip": FitNets,
    "static-undo": FitNets,
    "pre-tap": FitNets,
    "strip": FitNets,
    "strip+refit": FitNets,
    "strip+finetune": FitNets,
    "plugin-substitution": FitNets,
}


@pytest.mark.parametrize("name", RECIPES)
def test_only_recipes_that_ask_otherwise_share(name: str) -> None:
    recipe = get_recipe(name)
    assert training_class(recipe) is ALIKE.get(name, type(recipe))


@pytest.mark.parametrize("member", ["helper", "loss", "ground_truth", "taps", "_hook", "__init__"])
def test_whatever_decides_how_students_train_parts_a_recipe_from_its_base(member: str) -> None:
    written = {"__init__": lambda self: setattr(self, "taps", 2)}.get(member, getattr(FitNets, member, None))
    changed = type("Changed", (FitNets,), {"name": "changed", "__doc__": "Changed.", member: written})
    assert training_class(changed()) is changed
