"""The ways to train a student, one file each. See CONTRIBUTING.md to add one."""

from __future__ import annotations

from kdguard.export.errors import UserError
from kdguard.runtime.recipes.base import Batch, Recipe
from kdguard.runtime.recipes.fitnets import FitNets
from kdguard.runtime.recipes.output_l1 import OutputL1
from kdguard.runtime.recipes.scratch import Scratch

RECIPES: dict[str, Recipe] = {recipe.name: recipe for recipe in (Scratch(), OutputL1(), FitNets())}


def get_recipe(name: str) -> Recipe:
    """Look a recipe up by its command-line name.

    Raises:
        UserError: no recipe of that name; suggests the nearest.
    """
    from difflib import get_close_matches

    if name not in RECIPES:
        near = get_close_matches(name, RECIPES, n=1)
        hint = f"did you mean {near[0]!r}?" if near else f"choose one of {', '.join(RECIPES)}"
        raise UserError(f"unknown recipe {name!r}: {hint}")
    return RECIPES[name]


__all__ = ["RECIPES", "Batch", "Recipe", "get_recipe"]
