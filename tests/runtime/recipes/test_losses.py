"""Every loss against values worked out by hand."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from math import sqrt

import pytest
import torch
from torch import Tensor, nn

from kdguard.export.errors import UserError
from kdguard.runtime.recipes import RECIPES, Batch, Recipe, Step, dckd, fakd, get_recipe
from kdguard.runtime.students.base import Restoration, Student

OUTPUT = torch.tensor([[[[0.1, 0.2], [0.3, 0.4]]]])
CLEAN = torch.tensor([[[[0.0, 0.0], [0.0, 1.0]]]])
TEACHER = torch.tensor([[[[0.2, 0.2], [0.2, 0.2]]]])
SHALLOW = torch.tensor([[[[1.0, 0.0], [0.0, 0.0]]]])
DEEP = torch.tensor([[[[1.0, 2.0], [3.0, 4.0]]]])
EARLIER = torch.tensor([[[[0.0, 0.0], [0.0, 2.0]]]])
SPREAD = torch.tensor([[[[0.0, 0.02], [0.06, 0.0]]]])
TAPPED = torch.tensor([[[[2.0, 4.0], [6.0, 8.0]], [[0.0, 0.0], [0.0, 3.0]]]])

TO_TRUTH = (0.1 + 0.2 + 0.3 + 0.6) / 4
TO_TEACHER = (0.1 + 0.0 + 0.1 + 0.2) / 4


class Halving(Student):
    """Halves every value; shows the maps above."""

    channels, scale, map_channels = 1, 1, (1, 1)

    def restore(self, degraded: Tensor) -> Restoration:
        return Restoration(degraded / 2, (SHALLOW, DEEP))


def batch(maps: Sequence[Tensor] = (TAPPED,), degraded: Tensor = CLEAN) -> Batch:
    return Batch(degraded, CLEAN, torch.tensor([True]), TEACHER, tuple(maps), SPREAD)


def step(helper: nn.Module | None = None, weight: float = 1.0, asked: Batch | None = None) -> Step:
    return Step(Halving(), Restoration(OUTPUT, (SHALLOW, DEEP)), asked or batch(), helper, weight)


def loss_of(name: str, given: Step) -> float:
    return get_recipe(name).loss(given).item()


def set_to(convolution: nn.Module, weight: Sequence[float], bias: Sequence[float]) -> None:
    assert isinstance(convolution, nn.Conv2d)
    assert convolution.bias is not None
    with torch.no_grad():
        convolution.weight[:] = torch.tensor(weight).reshape(convolution.weight.shape)
        convolution.bias[:] = torch.tensor(bias)


def fitnets_helper(name: str) -> nn.Module:
    """Channel 0 matches the tap; channel 1 gives 0, 0.5, 1, 1.5 against 0, 0, 0, 3."""
    helper = get_recipe(name).helper(Halving(), (2,))
    assert isinstance(helper, nn.Conv2d)
    assert helper.kernel_size == (1, 1)
    set_to(helper, [2.0, 0.5], [0.0, -0.5])
    return helper


FEATURE_MSE = (0.5**2 + 1.0**2 + 1.5**2) / 8


def test_scratch_looks_at_ground_truth_only() -> None:
    blind = Batch(CLEAN, CLEAN, torch.tensor([True]))
    assert loss_of("scratch", step(asked=blind)) == pytest.approx(TO_TRUTH)


@pytest.mark.parametrize("name", ["output-l1", "single-query", "dihedral-average"])
def test_output_recipes_look_at_the_teacher_only(name: str) -> None:
    assert loss_of(name, step()) == pytest.approx(TO_TEACHER)


@pytest.mark.parametrize("name", ["output+gt", "same-budget"])
def test_ground_truth_and_outputs_share_the_loss(name: str) -> None:
    assert loss_of(name, step()) == pytest.approx((TO_TRUTH + TO_TEACHER) / 2)


@pytest.mark.parametrize(
    "name",
    [
        "fitnets",
        "fitnets-tuned",
        "fitnets-standardised",
        "fitnets-svd-clip",
        "static-undo",
        "pre-tap",
        "strip",
        "strip+refit",
        "strip+finetune",
        "plugin-substitution",
    ],
)
def test_fitnets_adds_the_squared_distance_after_the_adaptor(name: str) -> None:
    helper = fitnets_helper(name)
    assert loss_of(name, step(helper)) == pytest.approx(TO_TEACHER + FEATURE_MSE)
    assert loss_of(name, step(helper, weight=0.1)) == pytest.approx(TO_TEACHER + 0.1 * FEATURE_MSE)


def test_fitnets_resizes_the_students_map() -> None:
    helper = get_recipe("fitnets").helper(Halving(), (1,))
    assert helper is not None
    set_to(helper, [1.0], [0.0])
    # 1 2 / 3 4 between pixel centres: rows of 1, 1.25, 1.75, 2 that rise by 2 from top to bottom.
    row = torch.tensor([1.0, 1.25, 1.75, 2.0])
    wide = torch.stack([row + rise for rise in (0.0, 0.5, 1.5, 2.0)])[None, None]
    assert loss_of("fitnets", step(helper, asked=batch([wide]))) == pytest.approx(TO_TEACHER)
    assert loss_of("fitnets", step(helper, asked=batch([wide + 2]))) == pytest.approx(TO_TEACHER + 4)


def test_attention_transfer_compares_where_maps_are_strong() -> None:
    student = [1.0, 4.0, 9.0, 16.0]
    teacher = [4.0, 16.0, 36.0, 64.0 + 9.0]
    own, wanted = ([value / sqrt(sum(v * v for v in values)) for value in values] for values in (student, teacher))
    expected = sum((a - b) ** 2 for a, b in zip(own, wanted, strict=True))
    assert loss_of("attention-transfer", step(weight=3.0)) == pytest.approx(TO_TEACHER + 3 * expected, rel=1e-5)


def test_attention_does_not_see_a_gain_on_the_whole_map() -> None:
    once, tenfold = (loss_of("attention-transfer", step(asked=batch([TAPPED * gain]))) for gain in (1, 10))
    assert once == pytest.approx(tenfold, abs=1e-6)


def test_fakd_compares_cosines_between_positions() -> None:
    # The student's one channel is positive everywhere: all cosines 1. The teacher's last position (8, 3)
    # has cosine 8 / sqrt(73) with the three others, in both triangles of the 4 x 4 matrix.
    expected = 6 * (1 - 8 / sqrt(73)) / 16
    assert loss_of("fakd", step()) == pytest.approx(TO_TRUTH + TO_TEACHER + expected, rel=1e-5)


def test_fakd_pools_large_maps_by_their_means() -> None:
    spot = torch.zeros(1, 2, 4, 4)
    spot[:, 0, 0, 0] = 4
    spot[:, 1] = 1
    # The block with the spot: means 1 and 1; the three others 0 and 1.
    expected = torch.tensor([[[sqrt(0.5), 0, 0, 0], [sqrt(0.5), 1, 1, 1]]])
    torch.testing.assert_close(fakd._directions(spot, 2), expected)
    assert f"{fakd.MAX_SIDE}x{fakd.MAX_SIDE} at most" in str(fakd.Fakd.__doc__)
    small, large = (torch.rand(1, 1, side, side) for side in (fakd.MAX_SIDE, 2 * fakd.MAX_SIDE))
    given = replace(step(asked=batch([large])), restoration=Restoration(OUTPUT, (small, small)))
    assert loss_of("fakd", given) == pytest.approx(TO_TRUTH + TO_TEACHER, abs=1e-4)


def test_fsp_compares_products_of_two_layers() -> None:
    helper = get_recipe("fsp").helper(Halving(), (1, 2))
    assert isinstance(helper, nn.ModuleList)
    set_to(helper[0], [3.0], [0.0])
    set_to(helper[1], [1.0, 0.0], [0.0, 1.0])
    # Student: 3 x shallow is 3 at the first position, where the deep channels are 1 and 1: 3/4, 3/4.
    # Teacher: the earlier map is 2 at the last position, where the tapped channels are 8 and 3: 4, 3/2.
    expected = ((0.75 - 4) ** 2 + (0.75 - 1.5) ** 2) / 2
    assert loss_of("fsp", step(helper, asked=batch([EARLIER, TAPPED]))) == pytest.approx(TO_TEACHER + expected)


def test_skeptical_keeps_the_teacher_away_from_the_main_head() -> None:
    helper = get_recipe("skeptical").helper(Halving(), (2,))
    assert isinstance(helper, nn.ModuleDict)
    set_to(helper["map"], [2.0, 0.0], [0.0, 1.0])
    image = helper["image"]
    assert isinstance(image, nn.Conv2d)
    set_to(image, [0.0] * 4 + [0.5] + [0.0] * 4, [0.1])
    # The auxiliary image: degraded + 0.5 x shallow + 0.1 = 0.6, 0.1, 0.1, 1.1.
    main_to_auxiliary = (0.5 + 0.1 + 0.2 + 0.7) / 4
    auxiliary_to_teacher = (0.4 + 0.1 + 0.1 + 0.9) / 4
    # Shallow through the adaptor: 2, 0, 0, 0 and 1, 1, 1, 1 against the tap.
    features = ((0 + 16 + 36 + 64) + (1 + 1 + 1 + 4)) / 8
    expected = TO_TRUTH + main_to_auxiliary + auxiliary_to_teacher + 0.1 * features
    assert loss_of("skeptical", step(helper, weight=0.1)) == pytest.approx(expected)


def test_the_main_head_of_the_skeptical_student_does_not_pull_at_the_auxiliary_one() -> None:
    """The auxiliary image is above the teacher's everywhere: that alone is its gradient, wherever the main one is."""
    helper = get_recipe("skeptical").helper(Halving(), (2,))
    assert isinstance(helper, nn.ModuleDict)
    set_to(helper["image"], [0.0] * 9, [5.0])
    for output in (OUTPUT, OUTPUT + 20):
        given = replace(step(helper), restoration=Restoration(output, (SHALLOW, DEEP)))
        assert torch.autograd.grad(get_recipe("skeptical").loss(given), helper["image"].bias)[0] == 1


@pytest.mark.parametrize("name", ["scratch", "dukd"])
def test_tiles_without_ground_truth_do_not_count_against_it(name: str) -> None:
    halves = Batch(CLEAN, CLEAN, torch.tensor([False]), TEACHER)
    expected = 0.0 if name == "scratch" else TO_TEACHER + (CLEAN / 2 - TEACHER).abs().mean().item()
    assert loss_of(name, step(asked=halves)) == pytest.approx(expected)


def test_losses_of_batches_are_means_over_images(monkeypatch: pytest.MonkeyPatch) -> None:
    """Twice the same image gives the same loss, whatever the recipe."""
    # Noise is drawn anew for every image.
    monkeypatch.setattr(dckd, "noisy", lambda degraded: degraded / 2)
    helpers = {"fsp": (1, 2)}
    for name, recipe in RECIPES.items():
        maps = (EARLIER, TAPPED) if recipe.taps == 2 else (TAPPED,)
        helper = recipe.helper(Halving(), helpers.get(name, (2,)))
        losses = []
        for count in (1, 2):
            asked = Batch(
                CLEAN.repeat(count, 1, 1, 1),
                CLEAN.repeat(count, 1, 1, 1),
                torch.ones(count, dtype=torch.bool),
                TEACHER.repeat(count, 1, 1, 1),
                tuple(m.repeat(count, 1, 1, 1) for m in maps),
                SPREAD.repeat(count, 1, 1, 1),
            )
            restoration = Restoration(
                OUTPUT.repeat(count, 1, 1, 1),
                (SHALLOW.repeat(count, 1, 1, 1), DEEP.repeat(count, 1, 1, 1)),
            )
            torch.manual_seed(0)
            losses.append(float(recipe.loss(Step(Halving(), restoration, asked, helper))))
        assert losses[0] == pytest.approx(losses[1], rel=1e-5), name


def test_registry_states_tier_and_source() -> None:
    for name, recipe in RECIPES.items():
        assert recipe.name == name
        assert recipe.tier in {"control", "T0", "T1", "T1s", "T2", "T3"}
        assert recipe.source
        assert recipe.__doc__
    assert RECIPES["scratch"].sources == ("none",)
    clean_only = {name for name, recipe in RECIPES.items() if recipe.sources == ("clean",)}
    assert clean_only == {"same-budget", "authorised"}
    assert RECIPES["fitnets"].taps == 1


def test_who_knows_kdguard_lets_validation_choose_the_feature_weight() -> None:
    thieves = {name: recipe for name, recipe in RECIPES.items() if recipe.tier != "T3"}
    open_to_choice = {name for name, recipe in thieves.items() if len(recipe.weights) > 1 and recipe.taps}
    assert open_to_choice == {name for name, recipe in RECIPES.items() if recipe.tier in {"T1s", "T2"}}
    assert all({1.0, 0.1} <= set(RECIPES[name].weights) for name in open_to_choice)


def test_what_asks_for_ground_truth_looks_at_it_and_nothing_else_does() -> None:
    """Recipes without ground truth must not learn from it, or T0 figures would be too good."""
    other = 1 - CLEAN

    def changes(recipe: Recipe) -> bool:
        maps = (EARLIER, TAPPED) if recipe.taps == 2 else (TAPPED,)
        helper = recipe.helper(Halving(), tuple(m.shape[1] for m in maps))
        losses = []
        for truth in (CLEAN, other):
            asked = replace(batch(maps), clean=truth)
            torch.manual_seed(0)
            losses.append(float(recipe.loss(replace(step(helper), batch=asked))))
        return losses[0] != losses[1]

    looking = {name for name, recipe in RECIPES.items() if changes(recipe)}
    # The self-ensemble needs ground truth to choose its views, not for its loss.
    assert looking | {"dihedral-average"} == {name for name, recipe in RECIPES.items() if recipe.ground_truth}


def test_a_key_holder_leads_the_answer_to_the_truth_where_views_disagree() -> None:
    helper = fitnets_helper("authorised")
    # The truth is 0.05 brighter than the answer of 0.2 on the whole; where views spread by 0.02 and 0.06, the answer
    # counts a half and a quarter.
    target = [0.25, 0.25 / 2, 0.25 / 4, 0.25]
    plain = sum(abs(s - t) for s, t in zip([0.1, 0.2, 0.3, 0.4], target, strict=True)) / 4
    # Halving the mirrored input gives 0, 0, 0.5, 0, against the mirrored target.
    mirrored = sum(abs(s - t) for s, t in zip([0.0, 0.0, 0.0, 0.5], target, strict=True)) / 4
    assert loss_of("authorised", step(helper, weight=0.1)) == pytest.approx((plain + mirrored) / 2 + 0.1 * FEATURE_MSE)


def test_unknown_recipe_suggests_the_nearest() -> None:
    with pytest.raises(UserError, match="did you mean 'fitnets'"):
        get_recipe("fitnet")
    with pytest.raises(UserError, match="choose one of"):
        get_recipe("qqqqqq")
