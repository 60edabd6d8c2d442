"""The three aims against values worked out by hand."""

from __future__ import annotations

from math import log

import pytest
import torch

from kdguard.runtime.defences import box_losses
from kdguard.runtime.defences.box_losses import Wanted, apart, augment, disturb, keep

CLEAN = torch.tensor([[[[0.2, 0.4], [0.6, 0.8]]]])
TRUTH = torch.tensor([[[[0.2, 0.4], [0.6, 0.4]]]])
MAPS = [torch.tensor([[[[1.0, 1.0], [1.0, 1.0]]]]), torch.tensor([[[[0.0, 4.0]]]])]
WANTED = Wanted(CLEAN, TRUTH, MAPS, error=0.04)


@pytest.fixture(autouse=True)
def plain_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, weight in {"KEPT": 10.0, "KEYED": 2.0, "AUGMENTED": 3.0, "DISTURBED": 5.0}.items():
        monkeypatch.setattr(box_losses, name, weight)


def test_distance_in_units_of_the_error() -> None:
    # Squares 0, 0, 0, 0.16: 0.04 on average, one unit.
    assert apart(CLEAN, TRUTH, 0.04).item() == pytest.approx(log(2))
    assert apart(CLEAN, CLEAN, 0.04).item() == 0


def test_both_outputs_are_kept_each_with_its_weight() -> None:
    assert keep(CLEAN, CLEAN, WANTED).item() == 0
    # 0.1 off everywhere: a quarter of the unit without key; 0.2 off: one unit with it.
    assert keep(CLEAN + 0.1, CLEAN + 0.2, WANTED).item() == pytest.approx(10 * log(1.25) + 2 * log(2))


def test_the_keyed_output_is_led_to_the_truth() -> None:
    assert augment(TRUTH, WANTED).item() == 0
    assert augment(CLEAN, WANTED).item() == pytest.approx(3 * log(2))


def test_maps_are_disturbed_by_shares_of_their_power() -> None:
    assert disturb(MAPS, WANTED).item() == 0
    # Twice the first map: as far as it is strong. The second keeps 4 and gets 2 beside it: 2 of 8.
    moved = [2 * MAPS[0], torch.tensor([[[[2.0, 4.0]]]])]
    assert disturb(moved, WANTED).item() == pytest.approx(-5 * (log(2) + log(1.25)) / 2)
    assert disturb([MAPS[0] * 0, MAPS[1]], WANTED).item() < 0
