"""The contrastive losses against values worked out by hand, and what they compare with."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from kdguard.runtime.recipes import Batch, Step, contrastive, dckd, get_recipe
from kdguard.runtime.recipes.contrastive import STAGE_WIDTHS, contrast, frozen_stages, stages_of
from kdguard.runtime.students.base import Restoration
from tests.runtime.recipes.test_losses import DEEP, SHALLOW, Halving, loss_of


class Square(nn.Module):
    def forward(self, values: Tensor) -> Tensor:
        return values * values


@pytest.fixture
def plain_eyes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Four stages that show the image as it is and a fifth that squares it, in place of the frozen network."""
    stages = nn.ModuleList([nn.Identity()] * 4 + [Square()])
    monkeypatch.setattr(contrastive, "frozen_stages", lambda _: stages)


def flat(*values: float) -> Tensor:
    """One image of two pixels per value."""
    return torch.tensor(values)[:, None, None, None].repeat(1, 1, 1, 2)


SHALLOW_WEIGHTS = 1 / 32 + 1 / 16 + 1 / 8 + 1 / 4


def test_contrastive_compares_with_the_other_images_of_the_batch(plain_eyes: None) -> None:
    truth = flat(0.5, 0.6, 0.7)
    asked = Batch(flat(0.1, 0.9, 0.2), truth, torch.ones(3, dtype=torch.bool), flat(0.4, 0.6, 0.6))
    given = Step(Halving(), Restoration(flat(0.5, 0.5, 0.5), ()), asked, None, 2.0)
    # Distances to the teacher are 0.1 per image. Each image has the two others' degraded ones as negatives:
    # rolled by one 0.2, 0.1, 0.9 at distances 0.3, 0.4, 0.4; by two 0.9, 0.2, 0.1 at 0.4, 0.3, 0.4.
    shallow = 0.1 / ((0.3 + 0.4 + 0.4) / 3 + (0.4 + 0.3 + 0.4) / 3)
    # Squares: 0.25 against 0.16, 0.36, 0.36; against 0.04, 0.01, 0.81 and 0.81, 0.04, 0.01.
    deep = ((0.09 + 0.11 + 0.11) / 3) / ((0.21 + 0.24 + 0.56) / 3 + (0.56 + 0.21 + 0.24) / 3)
    expected = (0.0 + 0.1 + 0.2) / 3 + 2 * (SHALLOW_WEIGHTS * shallow + deep)
    assert loss_of("contrastive", given) == pytest.approx(expected, rel=1e-4)


def test_contrastive_has_no_more_negatives_than_the_paper(plain_eyes: None) -> None:
    count = contrastive.NEGATIVES + 3
    ones = torch.ones(count, dtype=torch.bool)
    asked = Batch(flat(*[1.0] * count), flat(*[0.0] * count), ones, flat(*[0.5] * count))
    given = Step(Halving(), Restoration(flat(*[0.0] * count), ()), asked)
    expected = SHALLOW_WEIGHTS * 0.5 / contrastive.NEGATIVES + 0.25 / contrastive.NEGATIVES
    assert loss_of("contrastive", given) == pytest.approx(expected, rel=1e-4)


def test_a_stage_is_what_the_stages_before_it_are_put_through() -> None:
    image = torch.rand(2, 3, 32, 32)
    found = stages_of(image)
    assert [stage.shape for stage in found] == [
        (2, width, side, side) for width, side in zip(STAGE_WIDTHS, (32, 16, 8, 4, 2), strict=True)
    ]
    torch.testing.assert_close(found[2], frozen_stages(3)[2](frozen_stages(3)[1](frozen_stages(3)[0](image))))
    assert contrast(found, found, [stages_of(1 - image)]) == 0


def test_stages_count_as_in_the_paper() -> None:
    zeros, ones = [torch.zeros(1)] * 5, [torch.ones(1)] * 5
    wanted = [torch.tensor([10.0**power]) for power in range(5)]
    expected = 1 / 32 + 10 / 16 + 100 / 8 + 1000 / 4 + 10000
    assert contrast(zeros, wanted, [ones]).item() == pytest.approx(expected, rel=1e-5)


class Scaled(Halving):
    """Has one weight, the factor on the image."""

    def __init__(self) -> None:
        super().__init__()
        self.factor = nn.Parameter(torch.tensor(0.5))

    def restore(self, degraded: Tensor) -> Restoration:
        return Restoration(degraded * self.factor, (SHALLOW, DEEP))


def test_dckd_stays_away_from_what_the_student_answered_before(
    plain_eyes: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dckd, "noisy", lambda degraded: degraded + 0.2)
    student = Scaled()
    helper = get_recipe("dckd").helper(student, ())
    asked = Batch(flat(0.8), flat(0.5), torch.tensor([True]), flat(0.7))
    given = Step(student, Restoration(flat(0.6), ()), asked, helper, 0.1)
    # The student before answers 0.4, and 0.5 to each of the four noisy images.
    shallow, deep = 0.1 / (0.2 + 4 * 0.1), 0.13 / (0.2 + 4 * 0.11)
    expected = 0.1 + 0.1 + 0.1 * (SHALLOW_WEIGHTS * shallow + deep)
    assert loss_of("dckd", given) == pytest.approx(expected, rel=1e-4)


def test_the_student_before_moves_as_training_goes_on(plain_eyes: None) -> None:
    student = Scaled()
    helper = get_recipe("dckd").helper(student, ())
    assert helper is not None
    with torch.no_grad():
        student.factor.fill_(1.5)
    asked = Batch(flat(0.8), flat(0.5), torch.tensor([True]), flat(0.7))
    for _ in range(dckd.FOLLOW_EVERY):
        get_recipe("dckd").loss(Step(student, Restoration(flat(0.6), ()), asked, helper, 0.1))
    assert helper.get_parameter("factor").item() == pytest.approx(0.1 * 0.5 + 0.9 * 1.5)


def test_the_student_before_follows_at_a_distance() -> None:
    student = Scaled()
    earlier = get_recipe("dckd").helper(student, ())
    assert earlier is not None
    assert not any(parameter.requires_grad for parameter in earlier.parameters())
    with torch.no_grad():
        student.factor.fill_(1.5)
    for _ in range(dckd.FOLLOW_EVERY - 1):
        dckd.follow(earlier, student)
    assert earlier.get_parameter("factor") == 0.5
    dckd.follow(earlier, student)
    assert earlier.get_parameter("factor").item() == pytest.approx(0.1 * 0.5 + 0.9 * 1.5)
    assert student.factor.requires_grad


def test_noise_differs_in_strength_and_half_of_it_is_grey() -> None:
    torch.manual_seed(0)
    noise = dckd.noisy(torch.full((200, 3, 32, 32), 0.5)) - 0.5
    strengths = noise.std(dim=(1, 2, 3))
    assert 0.8 / 255 < strengths.min() < 4 / 255
    assert 27 / 255 < strengths.max() < 32 / 255
    grey = (noise[:, 0] == noise[:, 2]).all(dim=(1, 2))
    assert 70 < grey.sum() < 130


def test_the_frozen_network_is_the_same_everywhere_and_is_not_trained() -> None:
    before = torch.random.get_rng_state()
    first = [p.clone() for p in frozen_stages(3).parameters()]
    frozen_stages.cache_clear()
    torch.manual_seed(5)
    assert all(torch.equal(a, b) for a, b in zip(first, frozen_stages(3).parameters(), strict=True))
    assert not any(p.requires_grad for p in frozen_stages(3).parameters())
    torch.random.set_rng_state(before)
