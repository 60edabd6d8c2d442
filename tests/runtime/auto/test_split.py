"""No image has two uses, and crops are as large as their cost allows."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from onnx import helper

from kdguard.export.image_pairs import ImagePair
from kdguard.export.model_card import ModelCard
from kdguard.runtime.analysis import Analysis
from kdguard.runtime.auto.split import (
    CHECK_IMAGES,
    CROP_LOSS_DB,
    FIT_IMAGES,
    MIN_SIDE,
    TRIAL_IMAGES,
    crop_loss_db,
    split,
)
from kdguard.runtime.session import RestorationSession
from tests.conftest import make_model
from tests.runtime.image_pairs import noisy_pairs


def analysed(side: int = 48, cost: float = 1e6) -> Analysis:
    return Analysis(
        input_shape=[1, 3, side, side], images=1, whole_shape=[1, 3, side, side], cost=cost, layers=[], skipped={}
    )


def teacher(card: ModelCard, kind: str = "Resize") -> RestorationSession:
    """Enlarges by the card's scale, or normalises over the whole image."""
    inputs = ["image", "", "sizes"] if kind == "Resize" else ["image", "slope", "offset"]
    weights = {"sizes": np.array([1, 1, card.scale, card.scale], np.float32), "slope": np.full(3, 0.1, np.float32)}
    weights["offset"] = np.full(3, 0.5, np.float32)
    model = make_model(
        [helper.make_node(kind, inputs, ["restored"])], {name: weights[name] for name in inputs if name in weights}
    )
    return RestorationSession(model, card)


def pairs(count: int, side: int = 48) -> list[ImagePair]:
    (one,) = noisy_pairs(1, side)
    return [ImagePair(f"p{index}", one.degraded, one.clean) for index in range(count)]


@pytest.mark.parametrize("count", [4, 5, 7, 8, 31, 100])
def test_uses_are_disjoint_and_every_one_has_images(card: ModelCard, count: int) -> None:
    found = split(pairs(count), card, analysed(), teacher(card))
    uses = [{pair.name for pair in use} for use in (found.fit, found.trial, found.check)]
    assert found.disjoint
    assert all(uses)
    assert len(set.union(*uses)) == sum(map(len, uses))
    assert len(found.fit) <= FIT_IMAGES
    assert len(found.trial) <= TRIAL_IMAGES
    assert len(found.check) <= CHECK_IMAGES


@pytest.mark.parametrize("count", [1, 2, 3])
def test_few_images_are_shared_and_that_is_said(card: ModelCard, count: int) -> None:
    found = split(pairs(count), card, analysed(), teacher(card))
    assert not found.disjoint
    assert all((found.fit, found.trial, found.check))
    assert len(found.check) == count


def test_crops_shrink_with_the_cost_and_never_below_the_least(card: ModelCard) -> None:
    large = pairs(8, 200)
    sides = []
    for cost in (1e9, 6e10, 1e15):
        found = split(large, card, analysed(200, cost), teacher(card))
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
    for pair in split(small, card, analysed(100, 1e12), teacher(card)).fit:
        height, width = pair.degraded.shape[:2]
        assert (height % 32, width % 32) == (0, 0)
        assert pair.clean.shape == (2 * height, 2 * width, 3)


def test_a_teacher_that_needs_the_whole_image_gets_it(card: ModelCard) -> None:
    """Its answer to the whole image is the truth; a crop has another mean."""
    session, large = teacher(card, "InstanceNormalization"), pairs(8, 200)
    right = [replace(pair, clean=session.restore(pair.degraded)) for pair in large]
    assert crop_loss_db(session, right[0], 64) > CROP_LOSS_DB
    assert crop_loss_db(session, right[0], 200) == 0
    found = split(right, card, analysed(200, 6e10), session)
    assert {pair.degraded.shape[0] for pair in (*found.fit, *found.trial, *found.check)} == {200}
    assert crop_loss_db(teacher(card), large[0], 64) == pytest.approx(0, abs=1e-6)
