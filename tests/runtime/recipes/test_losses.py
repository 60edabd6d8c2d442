"""Losses against hand-computed values."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from kdguard.export.errors import UserError
from kdguard.runtime.recipes import RECIPES, Batch, get_recipe

OUTPUT = torch.tensor([[[[0.1, 0.2], [0.3, 0.4]]]])
CLEAN = torch.tensor([[[[0.0, 0.0], [0.0, 1.0]]]])
TEACHER = torch.tensor([[[[0.2, 0.2], [0.2, 0.2]]]])
FEATURES = torch.tensor([[[[1.0, 2.0], [3.0, 4.0]]]])
TEACHER_FEATURES = torch.tensor([[[[2.0, 4.0], [6.0, 8.0]], [[0.0, 0.0], [0.0, 3.0]]]])
BATCH = Batch(CLEAN, CLEAN, TEACHER, TEACHER_FEATURES)


def test_scratch_looks_at_ground_truth_only() -> None:
    expected = (0.1 + 0.2 + 0.3 + 0.6) / 4
    loss = get_recipe("scratch").loss(OUTPUT, FEATURES, Batch(CLEAN, CLEAN, None, None), None)
    assert loss.item() == pytest.approx(expected)


def test_output_l1_looks_at_the_teacher_only() -> None:
    expected = (0.1 + 0.0 + 0.1 + 0.2) / 4
    assert get_recipe("output-l1").loss(OUTPUT, FEATURES, BATCH, None).item() == pytest.approx(expected)


def test_fitnets_adds_the_squared_distance_after_the_adaptor() -> None:
    recipe = get_recipe("fitnets")
    adaptor = recipe.adaptor(1, 2)
    assert isinstance(adaptor, nn.Conv2d)
    assert adaptor.kernel_size == (1, 1)
    with torch.no_grad():
        adaptor.weight[:] = torch.tensor([2.0, 0.5]).reshape(2, 1, 1, 1)
        adaptor.bias[:] = torch.tensor([0.0, -0.5])  # type: ignore[index]
    # Channel 0 matches; channel 1 gives 0, 0.5, 1, 1.5 against 0, 0, 0, 3.
    feature_term = (0.5**2 + 1.0**2 + 1.5**2) / 8
    loss = recipe.loss(OUTPUT, FEATURES, BATCH, adaptor)
    assert loss.item() == pytest.approx(0.1 + feature_term)


def test_fitnets_resizes_the_students_map() -> None:
    recipe = get_recipe("fitnets")
    adaptor = recipe.adaptor(1, 2)
    wide = Batch(CLEAN, CLEAN, TEACHER, torch.zeros(1, 2, 4, 4))
    assert torch.isfinite(recipe.loss(OUTPUT, FEATURES, wide, adaptor))


def test_registry_states_tier_and_source() -> None:
    for name, recipe in RECIPES.items():
        assert recipe.name == name
        assert recipe.tier in {"control", "T0", "T1", "T1s", "T2", "T3"}
        assert recipe.source
    assert RECIPES["scratch"].queries is False
    assert RECIPES["fitnets"].taps is True


def test_unknown_recipe_suggests_the_nearest() -> None:
    with pytest.raises(UserError, match="did you mean 'fitnets'"):
        get_recipe("fitnet")
    with pytest.raises(UserError, match="choose one of"):
        get_recipe("qqqqqq")
