"""No image has two uses, and crops are as large as their cost allows."""

from __future__ import annotations

import pytest

from kdguard.export.image_pairs import ImagePair
from kdguard.export.model_card import ModelCard
from kdguard.runtime.analysis import Analysis
from kdguard.runtime.auto.split import CHECK_IMAGES, FIT_IMAGES, MIN_SIDE, TRIAL_IMAGES, split
from tests.runtime.image_pairs import noisy_pairs


def analysed(side: int = 48, cost: float = 1e6) -> Analysis:
    return Analysis(
        input_shape=[1, 3, side, side], images=1, whole_shape=[1, 3, side, side], cost=cost, layers=[], skipped={}
    )


def pairs(count: int, side: int = 48) -> list[ImagePair]:
    (one,) = noisy_pairs(1, side)
    return [ImagePair(f"p{index}", one.degraded, one.clean) for index in range(count)]


@pytest.mark.parametrize("count", [4, 5, 7, 8, 31, 100])
def test_uses_are_disjoint_and_every_one_has_images(card: ModelCard, count: int) -> None:
    found = split(pairs(count), card, analysed())
    uses = [{pair.name for pair in use} for use in (found.fit, found.trial, found.check)]
    assert found.disjoint
    assert all(uses)
    assert len(set.union(*uses)) == sum(map(len, uses))
    assert len(found.fit) <= FIT_IMAGES
    assert len(found.trial) <= TRIAL_IMAGES
    assert len(found.check) <= CHECK_IMAGES


@pytest.mark.parametrize("count", [1, 2, 3])
def test_few_images_are_shared_and_that_is_said(card: ModelCard, count: int) -> None:
    found = split(pairs(count), card, analysed())
    assert not found.disjoint
    assert all((found.fit, found.trial, found.check))
    assert len(found.check) == count


def test_crops_shrink_with_the_cost_and_never_below_the_least(card: ModelCard) -> None:
    large = pairs(8, 200)
    sides = []
    for cost in (1e9, 6e10, 1e15):
        found = split(large, card, analysed(200, cost))
        sides.append([use[0].degraded.shape[0] for use in (found.fit, found.trial, found.check)])
        assert all(pair.degraded.shape == pair.clean.shape for pair in found.check)
    assert sides[0] == [200, 200, 200]
    fit, trial, check = sides[1]
    assert MIN_SIDE < trial < fit < check
    assert sides[2] == [MIN_SIDE] * 3


def test_crops_keep_the_size_multiple_and_the_scale(card: ModelCard) -> None:
    (one,) = noisy_pairs(1, 200)
    small = [ImagePair(f"p{i}", one.degraded[:100, :90], one.clean[:200, :180]) for i in range(4)]
    card = card.model_copy(update={"size_multiple": 32, "scale": 2})
    for pair in split(small, card, analysed(100, 1e12)).fit:
        height, width = pair.degraded.shape[:2]
        assert (height % 32, width % 32) == (0, 0)
        assert pair.clean.shape == (2 * height, 2 * width, 3)
