"""The ways to train a student, one file each. See CONTRIBUTING.md to add one."""

from __future__ import annotations

from kdguard.export.lookup import look_up
from kdguard.runtime.recipes.attention_transfer import AttentionTransfer
from kdguard.runtime.recipes.authorised import Authorised
from kdguard.runtime.recipes.base import Batch, Recipe, Step
from kdguard.runtime.recipes.contrastive import Contrastive
from kdguard.runtime.recipes.dckd import Dckd
from kdguard.runtime.recipes.dihedral_average import DihedralAverage
from kdguard.runtime.recipes.dukd import Dukd
from kdguard.runtime.recipes.fakd import Fakd
from kdguard.runtime.recipes.fitnets import FitNets
from kdguard.runtime.recipes.fitnets_standardised import FitNetsStandardised
from kdguard.runtime.recipes.fitnets_svd_clip import FitNetsSvdClip
from kdguard.runtime.recipes.fitnets_tuned import FitNetsTuned
from kdguard.runtime.recipes.fsp import Fsp
from kdguard.runtime.recipes.keyed_answers import HalfKeyedAnswers, KeyedAnswers
from kdguard.runtime.recipes.output_gt import OutputGt
from kdguard.runtime.recipes.output_l1 import OutputL1
from kdguard.runtime.recipes.plugin_substitution import PluginSubstitution
from kdguard.runtime.recipes.pre_tap import PreTap
from kdguard.runtime.recipes.same_budget import SameBudget
from kdguard.runtime.recipes.scratch import Scratch
from kdguard.runtime.recipes.single_query import SingleQuery
from kdguard.runtime.recipes.skeptical import Skeptical
from kdguard.runtime.recipes.static_undo import StaticUndo
from kdguard.runtime.recipes.strip import Strip
from kdguard.runtime.recipes.strip_finetune import StripFinetune
from kdguard.runtime.recipes.strip_refit import StripRefit

RECIPES: dict[str, Recipe] = {
    recipe.name: recipe
    for recipe in (
        Scratch(),
        SameBudget(),
        OutputL1(),
        OutputGt(),
        SingleQuery(),
        DihedralAverage(),
        Dukd(),
        Contrastive(),
        Dckd(),
        FitNets(),
        AttentionTransfer(),
        Fakd(),
        Fsp(),
        FitNetsTuned(),
        FitNetsStandardised(),
        FitNetsSvdClip(),
        StaticUndo(),
        PreTap(),
        Strip(),
        StripRefit(),
        StripFinetune(),
        Skeptical(),
        PluginSubstitution(),
        Authorised(),
        KeyedAnswers(),
        HalfKeyedAnswers(),
    )
}


def get_recipe(name: str) -> Recipe:
    """Look a recipe up by its command-line name.

    Raises:
        UserError: no recipe of that name; suggests the nearest.
    """
    return look_up(RECIPES, name, "recipe")


__all__ = ["RECIPES", "Batch", "Recipe", "Step", "get_recipe"]
